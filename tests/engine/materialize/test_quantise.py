"""Quantised results: what plain transformers loads is what bitsandbytes makes of W + ΔW itself."""

import json
import warnings

import pytest
import torch
from bitsandbytes.functional import int8_vectorwise_quant, quantize_4bit
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

from engine.materialize import Request, Source, materialize

IDS = torch.arange(12)[None]
CONFIG = LlamaConfig(
    hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, vocab_size=96, bos_token_id=1
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
