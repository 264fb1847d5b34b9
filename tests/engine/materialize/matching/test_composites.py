"""Models of several parts, and of layers that are not alike: each held to PEFT beside the base."""

import json

import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    BertConfig,
    BertForMaskedLM,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    GPT2Config,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from engine.errors import RefusedError
from engine.materialize.matching.layers import is_turned
from tests.engine.materialize.matching.judge import beside, close, merged, out, saved, tensors
from tests.engine.model.live import llama, lora_folder
from tests.engine.model.test_replaced import SMALL

BERT = BertConfig(
    vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
    max_position_embeddings=32,
)  # fmt: skip
DECODER, OUTPUT_BIAS = "cls.predictions.decoder", "cls.predictions.bias"


@pytest.fixture
def bert():
    torch.manual_seed(0)
    model = BertForMaskedLM(BERT).eval()
    with torch.no_grad():
        model.cls.predictions.bias.normal_()
    return model


def test_square_weights_of_a_gpt2_that_is_the_decoder_of_another_are_turned(tmp_path):
    """No shape tells a square Conv1D from a Linear, and the whole model's own family has none."""
    torch.manual_seed(0)
    decoder = GPT2Config(
        vocab_size=64, n_embd=16, n_layer=1, n_head=2, n_positions=32, add_cross_attention=True, is_decoder=True
    )
    model = EncoderDecoderModel(EncoderDecoderConfig.from_encoder_decoder_configs(BERT, decoder)).eval()
    model.config.decoder_start_token_id = model.config.pad_token_id = 0
    folder = lora_folder(tmp_path / "a", model, target_modules=["c_proj", "q_attn", "query"])
    done = merged(saved(model, tmp_path / "base"), [folder], tmp_path / "out")
    ids = torch.arange(12).reshape(2, 6)
    given = {"input_ids": ids, "decoder_input_ids": ids}
    close(out(type(model).from_pretrained(done), **given), out(beside(model, [folder]), **given), 1e-5)


@pytest.mark.parametrize(
    ("path", "shapes", "types", "stated", "turned"),
    [
        ("h.0.attn.c_attn", ((16, 48), (16, 48)), {"llama"}, False, True),  # shapes that fit one way decide
        ("h.0.attn.c_attn", ((48, 16), (16, 48)), {"gpt2"}, True, False),
        ("h.0.attn.c_proj", ((16, 16), (16, 16)), {"gpt2"}, False, True),  # where both fit, the family does
        ("h.0.attn.c_proj", ((16, 16), (16, 16)), {"vision-encoder-decoder", "gpt2"}, False, True),
        ("encoder.query", ((16, 16), (16, 16)), {"encoder-decoder", "gpt2"}, True, False),
        ("h.0.attn.c_proj", ((16, 16), (16, 16)), {"gpt_bigcode"}, True, False),
        ("h.0.attn.c_proj", ((16, 16), (16, 16)), set(), True, True),  # and where none is known, the adapter
        ("h.0.attn.c_proj", ((16, 16), (16, 16)), set(), False, False),
        ("h.0.mlp.c_fc", ((16, 64), (None, 64)), {"gpt2"}, False, True),  # IA3 tells one side alone
        ("h.0.mlp.c_fc", ((64, 16), (None, 64)), {"gpt2"}, False, False),
        ("conv", ((8, 8, 3), (8, 8)), {"gpt2"}, True, False),
    ],
)
def test_which_weights_are_stored_the_other_way_round(path, shapes, types, stated, turned):
    """By the stored shape and the (in, out) that the adapter shows."""
    assert is_turned(path, *shapes, frozenset(types), stated=stated) is turned


@pytest.mark.parametrize("target", ["decoder", "word_embeddings"])
def test_a_bias_that_was_tied_with_the_tables_is_written_where_they_part(bert, tmp_path, target):
    """Untied, BERT has two biases of its output, of which the base stores one."""
    folder = lora_folder(tmp_path / "a", bert, target_modules=[target])
    base = saved(bert, tmp_path / "base")
    assert f"{DECODER}.bias" not in tensors(base)
    done = merged(base, [folder], tmp_path / "out")
    found = tensors(done)
    assert torch.equal(found[f"{DECODER}.bias"], tensors(base)[OUTPUT_BIAS])
    assert json.loads((done / "config.json").read_text())["tie_word_embeddings"] is False
    close(out(BertForMaskedLM.from_pretrained(done)), out(beside(bert, [folder])))


@pytest.mark.parametrize("targets", [["query"], ["query", "decoder"]])
def test_a_bias_beside_no_weight_is_the_adapters_own(bert, tmp_path, targets):
    """`cls.predictions` has a bias and nothing else."""
    folder = lora_folder(tmp_path / "a", bert, target_modules=targets, bias="all")
    done = merged(saved(bert, tmp_path / "base"), [folder], tmp_path / "out")
    wrapped = beside(bert, [folder])
    close(out(BertForMaskedLM.from_pretrained(done)), out(wrapped))
    assert torch.equal(tensors(done)[OUTPUT_BIAS], wrapped.base_model.model.cls.predictions.bias)
    assert (f"{DECODER}.weight" in tensors(done)) == ("decoder" in targets)


def moe(**config):
    torch.manual_seed(0)
    sizes = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**SMALL, **sizes, **config)).eval()


@pytest.mark.parametrize("ranges", [[[0, 2], [0, 2]], [[1, 2], [0, 1]]])
def test_repeated_layers_that_the_config_tells_apart_by_number_are_refused(tmp_path, ranges):
    """Layer 0 is dense by `mlp_only_layers: [0]`; repeated elsewhere it would be built with experts of no numbers."""
    model = moe(mlp_only_layers=[0])
    folder = lora_folder(tmp_path / "a", model, target_modules=["q_proj"])
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"layer_replication": ranges}))
    with pytest.raises(RefusedError, match=r"config\.json has model\.layers\.\d\.mlp\.") as refused:
        merged(saved(model, tmp_path / "base"), [folder], tmp_path / "out")
    assert [finding.rule for finding in refused.value.findings] == ["replication-config"]
    assert not (tmp_path / "out").exists()


def test_repeated_layers_of_experts_that_are_alike_are_not(tmp_path):
    model = moe()
    folder = lora_folder(tmp_path / "a", model, target_modules=["q_proj"], layer_replication=[[0, 2], [1, 2]])
    done = merged(saved(model, tmp_path / "base"), [folder], tmp_path / "out")
    close(out(Qwen3MoeForCausalLM.from_pretrained(done)), out(beside(model, [folder])), 1e-5)


def test_layers_that_the_config_does_not_tell_of_are_not_repeated(tmp_path):
    """Of four numbered layers on disk the model has three; the fourth would be counted as one of its own."""
    model = llama(num_hidden_layers=3)
    folder = lora_folder(tmp_path / "a", model, layer_replication=[[0, 2], [1, 3]])
    base = saved(model, tmp_path / "base")
    held = tensors(base)
    held |= {name.replace(".2.", ".3."): one.clone() for name, one in held.items() if ".layers.2." in name}
    save_file(held, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(RefusedError, match="tells of 3 layers, the weights are of 4") as refused:
        merged(base, [folder], tmp_path / "out")
    assert [finding.rule for finding in refused.value.findings] == ["replication-config"]


def test_a_copy_of_floats_for_whole_numbers_is_no_copy(tmp_path):
    """A cast would cut 0.7 to 0 without a word."""
    model = llama()
    folder = lora_folder(tmp_path / "a", model, target_modules=["q_proj"], modules_to_save=["model.norm"])
    base = saved(model, tmp_path / "base")
    save_file(tensors(base) | {"model.norm.weight": torch.arange(32)}, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(RefusedError, match="expected I64, found F32") as refused:
        merged(base, [folder], tmp_path / "out")
    assert [finding.rule for finding in refused.value.findings] == ["own-dtype"]
