"""From a base that bitsandbytes packed: plain by default, packed again where enough of ΔW survives."""

import json
import warnings

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

from engine.errors import RefusedError
from engine.materialize import Request, Source, materialize
from engine.materialize.encodings import ENCODINGS
from engine.materialize.stored.packed import packed
from tests.engine.materialize.arrays import places

CONFIG = LlamaConfig(
    hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4, vocab_size=96, bos_token_id=1
)
KINDS = {
    "nf4": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True),
    "fp4": BitsAndBytesConfig(load_in_4bit=True),
    "int8": BitsAndBytesConfig(load_in_8bit=True),
}
DOWN = "model.layers.0.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """A base packed three ways, an adapter whose update is as large as the weights, and one of a thousandth of it."""
    folder = tmp_path_factory.mktemp("bases")
    torch.manual_seed(0)
    model = LlamaForCausalLM(CONFIG).bfloat16()
    model.save_pretrained(folder / "full")
    for kind, config in KINDS.items():
        quantised = AutoModelForCausalLM.from_pretrained(folder / "full", quantization_config=config)
        quantised.save_pretrained(folder / kind)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["down_proj"], init_lora_weights=False))
    adapted.save_pretrained(folder / "large")
    adapted.save_pretrained(folder / "small")
    factors = load_file(folder / "small/adapter_model.safetensors")
    scaled = {key: value / 1000 if "lora_B" in key else value for key, value in factors.items()}
    save_file(scaled, folder / "small/adapter_model.safetensors")
    return folder


def request(bases, kind, adapter="large", **options):
    return Request(base=bases / kind, sources=(Source(bases / adapter),), **options)


def weight(folder, name):
    """A stored weight's numbers, float32."""
    found = packed(places(folder / "model.safetensors"), "F32")[name]
    with ENCODINGS[found.encoding].reading(found) as reader:
        return reader.rows(0, found.matrix[0]).clone()


def update(bases, adapter):
    factors = load_file(bases / adapter / "adapter_model.safetensors")
    A, B = (next(value for key, value in factors.items() if side in key).double() for side in ("lora_A", "lora_B"))
    return 2 * (B @ A)


def dequantised(folder):
    """Every weight as transformers dequantises the model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return AutoModelForCausalLM.from_pretrained(folder).dequantize().state_dict()


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_plain_result_is_the_dequantised_base_plus_the_update(bases, tmp_path, kind):
    done = materialize(request(bases, kind, dtype="fp32"), tmp_path / "out")
    found, expected = load_file(tmp_path / "out/model.safetensors"), dequantised(bases / kind)
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert tensor.dtype == torch.float32
        if name == DOWN:
            total = weight(bases / kind, DOWN).double() + update(bases, "large")
            assert torch.allclose(tensor.double(), total, rtol=1e-5, atol=1e-6)
        else:
            assert torch.equal(tensor.bfloat16(), expected[name])
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert "quantization_config" not in config
    assert done.report["kept"] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_plain_result_has_the_dtype_that_the_numbers_had(bases, tmp_path, kind):
    materialize(request(bases, kind), tmp_path / "out")
    assert {tensor.dtype for tensor in load_file(tmp_path / "out/model.safetensors").values()} == {torch.bfloat16}
    with torch.no_grad():
        AutoModelForCausalLM.from_pretrained(tmp_path / "out")(torch.arange(5)[None])


def test_8_bits_packed_again_keep_the_share_that_fp64_gives_and_the_bytes_of_all_others(bases, tmp_path):
    done = materialize(request(bases, "int8", quantize="int8"), tmp_path / "out")
    before, after = (weight(folder, DOWN).double() for folder in (bases / "int8", tmp_path / "out"))
    D = update(bases, "large")
    share = float(((after - before) * D).sum() / (D * D).sum())
    assert share > 0.9
    (row,) = done.report["per_module"]
    assert row["kept"] == pytest.approx(share, rel=1e-6)
    cosine = float(((after - before) * D).sum() / ((after - before).norm() * D.norm()))
    assert row["cosine"] == pytest.approx(cosine, rel=1e-6)
    old, new = (load_file(folder / "model.safetensors") for folder in (bases / "int8", tmp_path / "out"))
    assert old.keys() == new.keys()
    for name, tensor in old.items():
        assert torch.equal(tensor, new[name]) == (name not in (DOWN, DOWN.replace("weight", "SCB")))
    configs = [json.loads((folder / "config.json").read_text()) for folder in (bases / "int8", tmp_path / "out")]
    assert configs[0]["quantization_config"] == configs[1]["quantization_config"]


def test_an_update_below_the_grid_is_refused_by_name_and_number_and_nothing_is_left(bases, tmp_path):
    with pytest.raises(RefusedError) as refused:
        materialize(request(bases, "int8", "small", quantize="int8"), tmp_path / "out")
    assert [(one.rule, one.where) for one in refused.value.findings] == [("update-lost", None), ("update-lost", DOWN)]
    assert "expected 90% of every weight; 1 of 1 have less" in refused.value.findings[0].message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("quantize", ["nf4", "fp4"])
def test_4_bits_are_not_packed_again_without_being_asked_to_lose(bases, tmp_path, kind, quantize):
    with pytest.raises(RefusedError, match=r"its full-precision twin is unknown: 1 weights \(model.layers.0.mlp"):
        materialize(request(bases, kind, quantize=quantize), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("kind", "quantize"), [("int8", "int8"), ("nf4", "nf4"), ("fp4", "fp4")])
def test_with_lossy_the_share_lost_is_told(bases, tmp_path, kind, quantize):
    done = materialize(request(bases, kind, "small", quantize=quantize, lossy=True), tmp_path / "out")
    before, after = (weight(folder, DOWN).double() for folder in (bases / kind, tmp_path / "out"))
    D = update(bases, "small")
    assert done.report["kept"] == pytest.approx(float(((after - before) * D).sum() / (D * D).sum()), rel=1e-4)
    assert done.report["swallowed"] > 0.5
    with torch.no_grad():
        AutoModelForCausalLM.from_pretrained(tmp_path / "out")(torch.arange(5)[None])


@pytest.mark.parametrize("kind", list(KINDS))
def test_unchanged_weights_of_the_same_kind_keep_every_byte(bases, tmp_path, kind):
    materialize(Request(base=bases / kind, sources=(), quantize=kind), tmp_path / "out")
    old, new = (load_file(folder / "model.safetensors") for folder in (bases / kind, tmp_path / "out"))
    assert old.keys() == new.keys()
    assert all(torch.equal(tensor, new[name]) for name, tensor in old.items())


def test_8_bits_become_4_where_asked(bases, tmp_path):
    materialize(Request(base=bases / "int8", sources=(), quantize="nf4"), tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert type(model.model.layers[0].mlp.down_proj).__name__ == "Linear4bit"
    error = (weight(tmp_path / "out", DOWN) - weight(bases / "int8", DOWN)).norm() / weight(bases / "int8", DOWN).norm()
    assert 0.05 < error < 0.12  # what 4 bits of normal numbers lose


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_a_copy_of_a_packed_layer_is_packed_like_it(bases, tmp_path, kind):
    """transformers loads every packed layer from codes, also one that an adapter brings whole."""
    model = LlamaForCausalLM.from_pretrained(bases / "full")
    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["up_proj"])
    adapted = get_peft_model(model, config)
    copy = adapted.base_model.model.model.layers[0].mlp.up_proj.modules_to_save["default"].weight
    copy.data.mul_(3)
    adapted.save_pretrained(tmp_path / "adapter")
    request = Request(base=bases / kind, sources=(Source(tmp_path / "adapter"),), quantize=kind, lossy=True)
    materialize(request, tmp_path / "out")
    found = weight(tmp_path / "out", DOWN.replace("down", "up"))
    assert 0 < (found - copy.data.float()).norm() / copy.data.float().norm() < 0.12
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert type(loaded.model.layers[0].mlp.up_proj.weight).__name__ in ("Int8Params", "Params4bit")
    with torch.no_grad():
        assert loaded(torch.arange(5)[None]).logits.isfinite().all()


def test_lost_updates_are_told_in_a_warning(bases, tmp_path):
    done = materialize(request(bases, "nf4", "small", quantize="nf4", lossy=True), tmp_path / "out")
    (warning,) = done.report["warnings"]
    assert "of the update survives packing; over 20% is lost of 1 of 1 weights" in warning
    assert "Take the full-precision checkpoint as base" in warning
