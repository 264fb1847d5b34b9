"""Quantised results: what plain transformers loads is what bitsandbytes makes of W + ΔW itself."""

import json
import shutil
import warnings
from dataclasses import replace

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, int8_vectorwise_quant, quantize_4bit
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from engine.errors import OptionError, RefusedError
from engine.materialize import Request, Source, materialize
from engine.materialize.encodings import ENCODINGS
from engine.materialize.stored.packed import packed
from engine.materialize.verify import verify
from tests.engine.materialize.arrays import places

IDS = torch.arange(12)[None]
CONFIG = LlamaConfig(
    hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, vocab_size=96, bos_token_id=1
)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A bfloat16 base and an adapter on every linear layer."""
    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    model = LlamaForCausalLM(CONFIG).bfloat16()
    model.save_pretrained(folder / "base")
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    adapted.save_pretrained(folder / "adapter")
    return folder


def sums(llama):
    """W + ΔW of every adapted weight, float32, by definition; alpha / r is 2."""
    base, factors = load_file(llama / "base/model.safetensors"), load_file(llama / "adapter/adapter_model.safetensors")
    found = {name: tensor.float() for name, tensor in base.items()}
    for key, A in factors.items():
        if key.endswith("lora_A.weight"):
            name = key.removeprefix("base_model.model.").replace("lora_A.weight", "weight")
            found[name] += (2 * factors[key.replace("lora_A", "lora_B")]) @ A
    return found


def loaded(folder):
    tensors = {}
    for file in folder.glob("*.safetensors"):
        tensors |= load_file(file)
    return tensors


def logits(folder, **options):
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        return AutoModelForCausalLM.from_pretrained(folder, **options)(IDS).logits


@pytest.mark.parametrize("nested", [True, False])
def test_4_bit_tensors_are_those_that_bitsandbytes_makes_of_the_sum(llama, tmp_path, nested):
    request = Request(base=llama / "base", sources=(Source(llama / "adapter"),), quantize="nf4", double_quantize=nested)
    materialize(request, tmp_path / "out")
    found = loaded(tmp_path / "out")
    for name, total in sums(llama).items():
        if "proj" not in name:
            continue
        codes, state = quantize_4bit(total, blocksize=64, quant_type="nf4", compress_statistics=nested)
        state.dtype = torch.bfloat16
        assert torch.equal(found[name], codes)
        for role, expected in state.as_dict(packed=True).items():
            part = found[f"{name}.{role}"]
            if role.startswith("quant_state"):
                assert json.loads(bytes(part)) == json.loads(bytes(expected))
            else:
                assert torch.equal(part, expected)


def test_8_bit_tensors_are_those_that_bitsandbytes_makes_of_the_sum(llama, tmp_path):
    materialize(Request(base=llama / "base", sources=(Source(llama / "adapter"),), quantize="int8"), tmp_path / "out")
    found = loaded(tmp_path / "out")
    for name, total in sums(llama).items():
        if "proj" in name:
            codes, scales, _ = int8_vectorwise_quant(total.half())
            assert torch.equal(found[name], codes)
            assert torch.equal(found[name.replace("weight", "SCB")], scales)


OPTIONS = {
    "nf4": {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": "bfloat16",
    },
    "int8": {"load_in_8bit": True},
}


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_names_dtypes_shapes_and_config_are_those_of_a_quantised_model_saved(llama, tmp_path, kind):
    """The text beside nested 4-bit scales may end in spaces."""
    materialize(Request(base=llama / "base", sources=(), quantize=kind), tmp_path / "out")
    theirs = AutoModelForCausalLM.from_pretrained(
        llama / "base", quantization_config=BitsAndBytesConfig(**OPTIONS[kind])
    )
    theirs.save_pretrained(tmp_path / "theirs")
    expected, found = loaded(tmp_path / "theirs"), loaded(tmp_path / "out")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        if "quant_state" in name:
            assert bytes(found[name]).rstrip() == bytes(tensor)
        else:
            assert torch.equal(found[name], tensor)
            assert found[name].dtype == tensor.dtype
    ours, config = (json.loads((tmp_path / folder / "config.json").read_text()) for folder in ("out", "theirs"))
    assert ours["quantization_config"] == config["quantization_config"]


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_plain_transformers_gives_the_logits_of_the_library_on_the_sum(llama, tmp_path, kind):
    """In float32, so that W + ΔW loses nothing before bitsandbytes gets it."""
    request = Request(base=llama / "base", sources=(Source(llama / "adapter"),), quantize=kind, dtype="fp32")
    materialize(request, tmp_path / "out")
    materialize(Request(base=llama / "base", sources=(Source(llama / "adapter"),), dtype="fp32"), tmp_path / "merged")
    options = OPTIONS[kind] | ({"bnb_4bit_compute_dtype": "float32"} if kind == "nf4" else {})
    expected = logits(tmp_path / "merged", quantization_config=BitsAndBytesConfig(**options))
    assert torch.equal(logits(tmp_path / "out"), expected)


@pytest.mark.parametrize(("dtype", "compute"), [("bf16", "bfloat16"), ("fp16", "float16"), ("fp32", "float32")])
def test_4_bit_layers_compute_in_the_dtype_of_the_others(llama, tmp_path, dtype, compute):
    materialize(Request(base=llama / "base", sources=(), quantize="nf4", dtype=dtype), tmp_path / "out")
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["quantization_config"]["bnb_4bit_compute_dtype"] == config["dtype"] == compute
    found = loaded(tmp_path / "out")
    assert {str(found[name].dtype) for name in found if "norm" in name} == {f"torch.{compute}"}
    state = json.loads(bytes(found["model.layers.0.mlp.up_proj.weight.quant_state.bitsandbytes__nf4"]))
    assert state["dtype"] == compute
    assert logits(tmp_path / "out").dtype == getattr(torch, compute)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """A base whose rows of 96 are one and a half blocks of 64, but for those of o_proj (4 heads of 16) and down_proj (128)."""
    folder = tmp_path_factory.mktemp("narrow")
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**{**CONFIG.to_dict(), "hidden_size": 96})).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_rows_that_are_no_whole_blocks_are_stored_right_and_warned_of(llama, narrow, tmp_path, kind):
    """Of 7 weights in each of two layers, 5 cross blocks."""
    done = materialize(Request(base=narrow, sources=(), quantize=kind), tmp_path / "out")
    even = materialize(Request(base=llama / "base", sources=(), quantize=kind), tmp_path / "even")
    assert even.report["warnings"] == []
    if kind == "int8":
        assert done.report["warnings"] == []
    else:
        (warning,) = done.report["warnings"]
        assert warning.startswith(
            "10 of 14 4-bit weights have rows that are no whole number of blocks (model.layers.0."
        )
        assert "96 numbers, blocks of 64" in warning
        assert verify(tmp_path / "out", narrow, ()).report["warnings"] == [warning]
    numbers = packed(places(tmp_path / "out/model.safetensors"), "F32")
    for name, W in load_file(narrow / "model.safetensors").items():
        with ENCODINGS[numbers[name].encoding].reading(numbers[name]) as reader:
            found = reader.rows(0, numbers[name].matrix[0])
        assert (found - W.view_as(found)).norm() <= 0.1 * W.norm()


def test_shards_hold_each_weight_with_all_that_is_beside_it(llama, tmp_path):
    request = Request(base=llama / "base", sources=(Source(llama / "adapter"),), quantize="nf4", shard_size=10_000)
    done = materialize(request, tmp_path / "out")
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    files = index["weight_map"]
    assert len(set(files.values())) > 3
    for name, file in files.items():
        assert files[name.partition(".weight")[0] + ".weight"] == file
    assert files.keys() == done.tensors.keys() == loaded(tmp_path / "out").keys()
    materialize(replace(request, shard_size=10**9), tmp_path / "whole")
    assert torch.equal(logits(tmp_path / "out"), logits(tmp_path / "whole"))


def test_any_number_of_workers_writes_the_same_bytes(llama, tmp_path):
    request = Request(base=llama / "base", sources=(Source(llama / "adapter"),), quantize="nf4")
    for jobs in (1, 3):
        materialize(request, tmp_path / str(jobs), jobs=jobs)
    first, second = ((tmp_path / jobs / "model.safetensors").read_bytes() for jobs in ("1", "3"))
    assert first == second


@pytest.mark.parametrize("nested", [True, False])
def test_the_folder_is_verified_from_its_files(llama, tmp_path, nested):
    sources = (Source(llama / "adapter"),)
    request = Request(base=llama / "base", sources=sources, quantize="nf4", double_quantize=nested)
    done = materialize(request, tmp_path / "out")
    assert verify(tmp_path / "out", llama / "base", sources).report == done.report


def test_the_report_is_of_the_numbers_that_codes_and_scales_give(llama, tmp_path):
    """Against fp64 by definition; an element is swallowed where W's own code is the sum's."""
    done = materialize(
        Request(base=llama / "base", sources=(Source(llama / "adapter"),), quantize="nf4"), tmp_path / "out"
    )
    base, totals = load_file(llama / "base/model.safetensors"), sums(llama)
    name = "model.layers.0.self_attn.q_proj.weight"
    W, total = base[name].float(), totals[name]
    codes, state = quantize_4bit(total, quant_type="nf4", compress_statistics=True)
    D, realised = (total - W).double(), dequantize_4bit(codes, state).double() - W.double()
    own, _ = quantize_4bit(W, quant_type="nf4")
    same = sum(int(torch.eq(codes & mask, own & mask).sum()) for mask in (0x0F, 0xF0))
    row = next(row for row in done.report["per_module"] if row["tensor"] == name)
    expected = {
        "kept": (realised * D).sum() / (D * D).sum(),
        "cosine": (realised * D).sum() / (realised.norm() * D.norm()),
        "relative_error": (realised - D).norm() / D.norm(),
        "swallowed": torch.tensor(same / W.numel()),
        "norm": D.norm(),
    }
    for key, value in expected.items():
        assert row[key] == pytest.approx(float(value), rel=1e-4)


def test_stochastic_rounding_and_codes_exclude_each_other(llama, tmp_path):
    request = Request(base=llama / "base", sources=(), quantize="nf4", rounding="stochastic")
    with pytest.raises(OptionError, match="packed weights take the nearest code"):
        materialize(request, tmp_path / "out")


@pytest.mark.parametrize(("kind", "number"), [("nf4", float("nan")), ("int8", 70000.0)])
def test_numbers_that_no_code_stands_for_are_refused(llama, tmp_path, kind, number):
    shutil.copytree(llama / "base", tmp_path / "base")
    tensors = {name: tensor.float() for name, tensor in load_file(tmp_path / "base/model.safetensors").items()}
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = number
    save_file(tensors, tmp_path / "base/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RefusedError, match=r"model.layers.1.mlp.up_proj.weight: the result holds NaN, infinite"):
        materialize(Request(base=tmp_path / "base", sources=(), quantize=kind), tmp_path / "out")


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """A base whose layers are (in, out), and an adapter on all of them."""
    folder = tmp_path_factory.mktemp("gpt2")
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_embd=64, n_layer=1, n_head=4, vocab_size=96, n_positions=16))
    model.save_pretrained(folder / "base")
    for kind, options in OPTIONS.items():
        quantised = AutoModelForCausalLM.from_pretrained(
            folder / "base", quantization_config=BitsAndBytesConfig(**options)
        )
        quantised.save_pretrained(folder / kind)
    config = LoraConfig(r=4, target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True, init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(folder / "adapter")
    return folder


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_layers_stored_in_out_are_packed_out_in(gpt2, tmp_path, kind):
    sources = (Source(gpt2 / "adapter"),)
    done = materialize(Request(base=gpt2 / "base", sources=sources, quantize=kind), tmp_path / "out")
    materialize(Request(base=gpt2 / "base", sources=sources), tmp_path / "merged")
    options = OPTIONS[kind] | ({"bnb_4bit_compute_dtype": "float32"} if kind == "nf4" else {})
    expected = logits(tmp_path / "merged", quantization_config=BitsAndBytesConfig(**options))
    assert torch.equal(logits(tmp_path / "out"), expected)
    assert done.report["modules"] == 4
    assert done.report["kept"] == pytest.approx(1, abs=0.1)
    assert verify(tmp_path / "out", gpt2 / "base", sources).report == done.report


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_packed_layers_become_in_out_again(gpt2, tmp_path, kind):
    """Square ones too, of which no shape tells the order."""
    sources = (Source(gpt2 / "adapter"),)
    materialize(Request(base=gpt2 / kind, sources=sources, dtype="fp32"), tmp_path / "out")
    oracle = AutoModelForCausalLM.from_pretrained(gpt2 / kind).dequantize()
    state = {name: tensor for name, tensor in oracle.state_dict().items() if name.endswith("c_proj.weight")}
    factors = load_file(gpt2 / "adapter/adapter_model.safetensors")
    found = load_file(tmp_path / "out/model.safetensors")
    assert len(state) == 2
    for name, W in state.items():
        A, B = (factors[f"base_model.model.{name[:-7]}.lora_{side}.weight"] for side in "AB")
        assert torch.allclose(found[name], (W.float() + 2 * B @ A).T, atol=1e-6)
    assert logits(tmp_path / "out").isfinite().all()
    assert verify(tmp_path / "out", gpt2 / kind, sources).tensors == len(found)


def test_layers_that_nothing_but_the_turn_changes_are_verified(gpt2, tmp_path):
    materialize(Request(base=gpt2 / "nf4", sources=()), tmp_path / "out")
    assert verify(tmp_path / "out", gpt2 / "nf4").report["cast"] == 4
