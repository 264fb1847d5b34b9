"""Bases in float64 are summed in float64: nothing of W is lost to float32, in files as on live models.

The judge is numpy in float64, and PEFT with all of its own in float64.
"""

import numpy as np
import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel
from safetensors.torch import load_file, save_file

from engine.errors import RefusedError
from engine.materialize import Request, Source, materialize
from engine.materialize.verify import verify
from engine.model.runtime import Runtime
from tests.engine.model.kinds import oracle
from tests.engine.model.kinds.oracle import quiet
from tests.engine.model.live import llama

IDS = torch.arange(12).reshape(2, 6)
Q = "model.layers.0.self_attn.q_proj"
NAMES = ["q_proj", "down_proj"]
CONFIGS = {
    "lora": LoraConfig(r=3, lora_alpha=5, target_modules=NAMES, bias="all"),
    "dora": LoraConfig(r=3, lora_alpha=5, target_modules=NAMES, use_dora=True),
    "table": LoraConfig(r=3, target_modules=["embed_tokens"]),
    "tokens": LoraConfig(r=2, target_modules=["q_proj"], trainable_token_indices=[3, 9]),
    "ia3": IA3Config(target_modules=NAMES, feedforward_modules=["down_proj"]),
    "copies": LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["norm"]),
}


def model():
    """Weights that float32 does not hold."""
    found = llama(attention_bias=True).double()
    draw = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw, dtype=torch.float64) * 0.05)
    return found


@pytest.fixture
def base(tmp_path):
    with quiet():
        model().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def close(found, expected):
    """ΔW is a product in float32, of which a term is up to 1; what is not ΔW has fifteen digits."""
    torch.testing.assert_close(found, expected, rtol=0, atol=3e-7)
    assert found.dtype is torch.float64


def test_w_keeps_all_its_digits_beside_a_small_update(base, tmp_path):
    """ΔW of 1e-9, which a float32 sum swallows: the step is there to seven digits of itself."""
    folder = oracle.saved(tmp_path / "a", llama(attention_bias=True), LoraConfig(r=3, target_modules=["q_proj"]))
    factors = load_file(folder / "adapter_model.safetensors")
    small = {key: value * (1e-9 if "lora_B" in key else 1) for key, value in factors.items()}
    save_file(small, folder / "adapter_model.safetensors")
    A, B = (small[f"base_model.model.{Q}.{side}.weight"].double().numpy() for side in ("lora_A", "lora_B"))
    D = 8 / 3 * B @ A

    done = materialize(Request(base=base, sources=(Source(folder),)), tmp_path / "out")

    name = f"{Q}.weight"
    before, after = (load_file(place / "model.safetensors")[name].numpy() for place in (base, tmp_path / "out"))
    assert after.dtype == np.float64
    assert np.linalg.norm(after - before - D) < 1e-6 * np.linalg.norm(D)
    assert done.report["swallowed"] == 0
    assert done.report["relative_error"] < 1e-6
    assert verify(tmp_path / "out", base, (Source(folder),)).report == done.report


@pytest.mark.parametrize("name", CONFIGS)
def test_files_are_what_peft_merges_in_float64(name, base, tmp_path):
    folder = oracle.saved(tmp_path / "a", model(), CONFIGS[name])
    with quiet():
        wrapped = PeftModel.from_pretrained(model(), folder, autocast_adapter_dtype=False).double()
        expected = wrapped.merge_and_unload().state_dict()

    materialize(Request(base=base, sources=(Source(folder),)), tmp_path / "out")

    found = load_file(tmp_path / "out/model.safetensors")
    assert found.keys() == expected.keys()
    for key, tensor in found.items():
        close(tensor, expected[key])
    changed = [
        key for key, tensor in load_file(base / "model.safetensors").items() if not torch.equal(tensor, found[key])
    ]
    assert 0 < len(changed) < len(found)


@pytest.mark.parametrize("dtype", [None, "bf16"])
def test_numbers_beyond_float32_are_numbers_where_they_are_kept(dtype, base, tmp_path):
    folder = oracle.saved(tmp_path / "a", model(), LoraConfig(r=2, target_modules=["q_proj"]))
    tensors = load_file(base / "model.safetensors")
    tensors[f"{Q}.weight"][0, 0] = 1e300
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    request = Request(base=base, sources=(Source(folder),), dtype=dtype)
    if dtype is None:
        materialize(request, tmp_path / "out")
        assert load_file(tmp_path / "out/model.safetensors")[f"{Q}.weight"][0, 0] == 1e300
    else:
        with pytest.raises(RefusedError, match=r"q_proj.weight: the result holds NaN, infinite"):
            materialize(request, tmp_path / "out")


FORMS = {
    "nf4": {"quantize": "nf4"},
    "int8": {"quantize": "int8"},
    "drawn": {"dtype": "bf16", "rounding": "stochastic", "seed": 3},
}


@pytest.mark.parametrize("form", FORMS)
def test_other_forms_are_those_of_the_base_in_float32(form, base, tmp_path):
    """But for numbers beside a bound, of which a float32 has the last bits otherwise."""
    folder = oracle.saved(tmp_path / "a", model(), LoraConfig(r=2, target_modules=["q_proj"]))
    with quiet():
        model().float().save_pretrained(tmp_path / "twin")
    for place, own in (("out", base), ("expected", tmp_path / "twin")):
        materialize(Request(base=own, sources=(Source(folder),), **FORMS[form]), tmp_path / place)
    found, expected = (load_file(tmp_path / place / "model.safetensors") for place in ("out", "expected"))
    assert found.keys() == expected.keys()
    one, other = found[f"{Q}.weight"], expected[f"{Q}.weight"]
    assert (one.dtype, one.shape) == (other.dtype, other.shape)
    assert (one != other).double().mean() < 0.01


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_a_live_model_in_float64_stays_there(name, tmp_path):
    folder = oracle.saved(tmp_path / "a", model(), CONFIGS[name])
    with quiet():
        wrapped = PeftModel.from_pretrained(model(), folder, autocast_adapter_dtype=False).double().eval()
        expected = wrapped(IDS).logits
    live = model()
    base = live(IDS).logits
    runtime = Runtime(live)
    runtime.load("a", folder)

    rows = runtime(IDS, adapter_names=["__base__", "a"]).logits
    assert torch.equal(rows[0], base[0])
    torch.testing.assert_close(rows[1], expected[1], rtol=1e-12, atol=1e-12)
    runtime.merge("a")
    torch.testing.assert_close(live(IDS).logits, expected, rtol=1e-12, atol=1e-12)
    runtime.unmerge()
    assert torch.equal(live(IDS).logits, base)
