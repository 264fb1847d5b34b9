"""Tables that a model uses as its input and its output: one tensor as long as nothing tells them apart, else two."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from engine.materialize.matching import seats
from tests.engine.materialize.matching.judge import beside, close, merged, out, saved, tensors
from tests.engine.model.live import llama, lora_folder

EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture(scope="module")
def tied(tmp_path_factory):
    """A tied Llama and its base in several shards."""
    model = llama(tie_word_embeddings=True)
    return model, saved(model, tmp_path_factory.mktemp("tied") / "base", max_shard_size="20KB")


def told(folder):
    return json.loads((folder / "config.json").read_text())["tie_word_embeddings"]


def test_a_base_whose_tables_are_not_touched_stays_as_it_is_and_no_model_is_built(tied, tmp_path, monkeypatch):
    model, base = tied
    monkeypatch.setattr(seats, "live_of", None)
    done = merged(base, [lora_folder(tmp_path / "a", model)], tmp_path / "out")
    assert tensors(done).keys() == tensors(base).keys()
    assert HEAD not in tensors(done)
    assert told(done) is True


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": ["embed_tokens"]},
        {"target_modules": ["embed_tokens"], "use_dora": True},
        {"target_modules": ["lm_head", "q_proj"]},
        {"target_modules": ["embed_tokens", "lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    ],
    ids=lambda config: "-".join(map(str, config.values())),
)
def test_an_adapter_that_tells_them_apart_unties(tied, tmp_path, config):
    model, base = tied
    folder = lora_folder(tmp_path / "a", model, **config)
    done = merged(base, [folder], tmp_path / "out")
    found = type(model).from_pretrained(done)
    assert not torch.equal(found.lm_head.weight, found.model.embed_tokens.weight)
    assert {EMBED, HEAD} <= tensors(done).keys()
    assert told(done) is False
    close(out(found), out(beside(model, [folder])))


def test_pefts_own_merge_changes_both_uses_and_so_computes_something_else(tied, tmp_path):
    model, base = tied
    folder = lora_folder(tmp_path / "a", model, target_modules=["embed_tokens"])
    found = out(type(model).from_pretrained(merged(base, [folder], tmp_path / "out")))
    unmerged = beside(model, [folder])
    close(found, out(unmerged))
    assert (out(unmerged.merge_and_unload()) - found).abs().max() > 1


def test_the_part_that_keeps_the_bases_numbers_keeps_its_bits(tied, tmp_path):
    model, base = tied
    before = tensors(base)[EMBED]
    for target, other in (("embed_tokens", HEAD), ("lm_head", EMBED)):
        folder = lora_folder(tmp_path / target, model, target_modules=[target])
        assert torch.equal(tensors(merged(base, [folder], tmp_path / f"out-{target}"))[other], before)


def test_trainable_tokens_keep_the_tie_as_in_peft(tied, tmp_path):
    model, base = tied
    folder = lora_folder(tmp_path / "a", model, trainable_token_indices={"embed_tokens": [3, 9, 3]})
    done = merged(base, [folder], tmp_path / "out")
    assert HEAD not in tensors(done)
    assert told(done) is True
    close(out(type(model).from_pretrained(done)), out(beside(model, [folder])))


@pytest.mark.parametrize("saved_modules", [None, ["embed_tokens"]])
def test_an_adapter_that_keeps_them_tied_leaves_them_tied(tied, tmp_path, saved_modules):
    """ensure_weight_tying, with factors on the table or a copy of it."""
    model, base = tied
    config = {"target_modules": ["q_proj"], "modules_to_save": saved_modules}
    if saved_modules is None:
        config = {"target_modules": ["embed_tokens", "q_proj"]}
    folder = lora_folder(tmp_path / "a", model, ensure_weight_tying=True, **config)
    done = merged(base, [folder], tmp_path / "out")
    close(out(type(model).from_pretrained(done)), out(beside(model, [folder])))


def test_a_copy_of_each_with_the_same_numbers_keeps_the_tie(tied, tmp_path):
    model, base = tied
    folder = lora_folder(tmp_path / "a", model, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])
    held = load_file(folder / "adapter_model.safetensors")
    names = [name for name in held if "embed_tokens" in name or "lm_head" in name]
    assert len(names) == 2
    save_file(held | {names[0]: held[names[1]].clone()}, folder / "adapter_model.safetensors")
    done = merged(base, [folder], tmp_path / "out")
    assert HEAD not in tensors(done)
    assert torch.equal(tensors(done)[EMBED], held[names[1]])


def test_a_base_that_stores_its_twin_too_has_both_changed_alike(tied, tmp_path):
    model, base = tied
    twice = saved(model, tmp_path / "twice")
    held = tensors(base)
    save_file(held | {HEAD: held[EMBED].clone()}, twice / "model.safetensors", {"format": "pt"})
    folder = lora_folder(tmp_path / "a", model, trainable_token_indices={"embed_tokens": [3]})
    found = tensors(merged(twice, [folder], tmp_path / "out"))
    assert torch.equal(found[HEAD], found[EMBED])
    assert not torch.equal(found[HEAD], held[EMBED])


def test_the_text_config_of_a_model_with_images_is_untied_with_it(tmp_path):
    config = transformers.Gemma3Config(
        text_config={"vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "tie_word_embeddings": True},
        vision_config={"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
        image_token_index=60,
        boi_token_index=61,
        eoi_token_index=62,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.Gemma3ForConditionalGeneration(config).eval()
    base = saved(model, tmp_path / "base")
    held = json.loads((base / "config.json").read_text())
    held["text_config"] |= {"tie_word_embeddings": True, "dtype": "float32"}
    (base / "config.json").write_text(json.dumps(held))
    folder = lora_folder(tmp_path / "a", model, target_modules=["embed_tokens"])
    done = merged(base, [folder], tmp_path / "out")
    close(out(type(model).from_pretrained(done)), out(beside(model, [folder])))
    config = json.loads((done / "config.json").read_text())
    assert config["tie_word_embeddings"] is False
    assert config["text_config"]["tie_word_embeddings"] is False
    half = json.loads((merged(base, [folder], tmp_path / "half", dtype="F16") / "config.json").read_text())
    assert half["text_config"]["dtype"] == "float16"
    assert half["text_config"]["tie_word_embeddings"] is False


def test_an_output_alone_of_t5_which_ties_four_tables(tmp_path):
    torch.manual_seed(0)
    config = transformers.T5Config(vocab_size=64, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2)
    model = transformers.T5ForConditionalGeneration(config).eval()
    with torch.no_grad():
        model.shared.weight.mul_(0.05)
    base, ids = saved(model, tmp_path / "base"), torch.arange(6)[None]
    folder = lora_folder(tmp_path / "a", model, target_modules=["lm_head", "q"])
    done = merged(base, [folder], tmp_path / "out")
    again = type(model).from_pretrained(done)
    close(
        out(again, input_ids=ids, decoder_input_ids=ids),
        out(beside(model, [folder]), input_ids=ids, decoder_input_ids=ids),
    )
    assert torch.equal(again.shared.weight, again.encoder.embed_tokens.weight)


def test_a_model_that_transformers_does_not_know_is_untied_by_what_its_files_say(tied, tmp_path):
    model, base = tied
    own = saved(model, tmp_path / "own")
    config = json.loads((own / "config.json").read_text())
    (own / "config.json").write_text(json.dumps(config | {"architectures": ["OwnForCausalLM"], "model_type": "own"}))
    folder = lora_folder(tmp_path / "a", model, target_modules=["embed_tokens"])
    done = merged(own, [folder], tmp_path / "out")
    assert torch.equal(tensors(done)[HEAD], tensors(base)[EMBED])
    assert told(done) is False


def test_two_adapters_one_on_each_table(tied, tmp_path):
    model, base = tied
    folders = [
        lora_folder(tmp_path / "a", model, target_modules=["embed_tokens", "q_proj"], seed=1),
        lora_folder(tmp_path / "b", model, target_modules=["lm_head", "q_proj"], seed=2),
    ]
    done = merged(base, folders, tmp_path / "out")
    close(out(type(model).from_pretrained(done)), out(beside(model, folders)))
