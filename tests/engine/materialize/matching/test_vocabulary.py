"""Adapters that carry tables of another size than the base's."""

import json

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from engine.errors import RefusedError
from tests.engine.materialize.matching.judge import IDS, beside, close, merged, out, saved, tensors
from tests.engine.model.live import llama, lora_folder

CASES = {
    "copies": ({"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}, False),
    "factors on both": ({"target_modules": ["embed_tokens", "lm_head", "q_proj"]}, False),
    "dora on both": ({"target_modules": ["embed_tokens", "lm_head"], "use_dora": True}, False),
    "tables written along": ({"target_modules": ["q_proj"]}, False),
    "tied, written along": ({"target_modules": ["q_proj"]}, True),
    "tied, factors on the table": ({"target_modules": ["embed_tokens"]}, True),
}


def resized(folder, *, tie, config, rows=80):
    """A base of 64 tokens on disk, and an adapter that was trained on it with `rows`."""
    model = llama(tie_word_embeddings=tie)
    base = saved(model, folder / "base")
    torch.manual_seed(4)
    model.resize_token_embeddings(rows)
    wrapped = get_peft_model(model, LoraConfig(r=4, lora_alpha=6, **config))
    with torch.no_grad():
        for name, one in wrapped.named_parameters():
            if one.requires_grad and "magnitude" not in name:
                one.add_(torch.randn_like(one), alpha=0.2)
    wrapped.eval().save_pretrained(folder / "adapter", save_embedding_layers=True)
    return wrapped, base, folder / "adapter"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_the_result_has_the_new_size(tmp_path, case):
    config, tie = CASES[case]
    wrapped, base, folder = resized(tmp_path, tie=tie, config=config)
    done = merged(base, [folder], tmp_path / "out")
    model = type(llama()).from_pretrained(done)
    assert json.loads((done / "config.json").read_text())["vocab_size"] == 80
    assert tuple(model.model.embed_tokens.weight.shape) == (80, 32)
    for ids in (IDS, IDS + 60):  # of the second the base does not have most
        close(out(model, ids), out(wrapped, ids), 5e-6)
    assert ("lm_head.weight" in tensors(done)) == (case != "tied, written along")


@pytest.mark.filterwarnings("ignore")
def test_a_smaller_vocabulary_is_taken_as_well(tmp_path):
    wrapped, base, folder = resized(tmp_path, tie=False, config={"target_modules": ["q_proj"]}, rows=50)
    model = type(llama()).from_pretrained(merged(base, [folder], tmp_path / "out"))
    assert model.config.vocab_size == 50
    close(out(model), out(wrapped))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("tie", "config"), [(False, {}), (True, {"modules_to_save": ["embed_tokens"]})])
def test_one_table_of_the_new_size_beside_one_of_the_old_is_refused(tmp_path, tie, config):
    """A copy of a saved module is that module's own, so that what it was tied to keeps the base's size."""
    _, base, folder = resized(tmp_path, tie=tie, config={"target_modules": ["q_proj"], **config})
    held = load_file(folder / "adapter_model.safetensors")
    (head,) = [name for name in held if "lm_head" in name]
    save_file({name: one for name, one in held.items() if name != head}, folder / "adapter_model.safetensors")
    with pytest.raises(RefusedError) as refused:
        merged(base, [folder], tmp_path / "out")
    assert [finding.rule for finding in refused.value.findings] == ["vocabulary-sizes"]
    assert "model.embed_tokens.weight 80 rows" in str(refused.value)
    assert "lm_head.weight 64 rows" in str(refused.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore")
def test_a_table_of_another_width_is_of_another_base(tmp_path):
    _, base, folder = resized(tmp_path, tie=False, config={"target_modules": ["q_proj"]})
    held = load_file(folder / "adapter_model.safetensors")
    (head,) = [name for name in held if "lm_head" in name]
    save_file(held | {head: torch.zeros(80, 33)}, folder / "adapter_model.safetensors")
    with pytest.raises(RefusedError, match=r"expected \[64, 32\], found \[80, 33\]"):
        merged(base, [folder], tmp_path / "out")


def phi(folder):
    """A base whose output has a bias, one number per token; a copy of it with 80 tokens, and an adapter of that."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    model = transformers.PhiForCausalLM(transformers.PhiConfig(**sizes, num_attention_heads=4)).eval()
    base = saved(model, folder / "base")
    model.resize_token_embeddings(80)
    with torch.no_grad():
        model.lm_head.bias.normal_()
    config = {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}
    return model, base, lora_folder(folder / "adapter", model, **config)


def test_the_bias_of_an_output_grows_with_its_table(tmp_path):
    model, base, folder = phi(tmp_path)
    done = merged(base, [folder], tmp_path / "out")
    found = transformers.PhiForCausalLM.from_pretrained(done)
    assert tuple(found.lm_head.bias.shape) == (80,)
    close(out(found, IDS + 60), out(beside(model, [folder]), IDS + 60))


def test_a_bias_that_keeps_the_bases_size_beside_a_longer_table_is_refused(tmp_path):
    _, base, folder = phi(tmp_path)
    held = load_file(folder / "adapter_model.safetensors")
    (bias,) = [name for name in held if name.endswith("lm_head.bias")]
    save_file({name: one for name, one in held.items() if name != bias}, folder / "adapter_model.safetensors")
    with pytest.raises(RefusedError, match=r"lm_head\.bias 64 rows") as refused:
        merged(base, [folder], tmp_path / "out")
    assert [finding.rule for finding in refused.value.findings] == ["vocabulary-sizes"]
