"""Factors of a parameter's experts: their ranks lie in slices of A and rank-major in B."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from peft import LoraConfig
from safetensors.numpy import load_file

from engine.convert.rewrite import stream
from engine.convert.rewrite.scales import Wanted, uniform
from engine.errors import RefusedError
from tests.engine.compat.peft_adapters import Mixture, save_adapter
from tests.engine.convert.rewrite.adapters import rewritten

EXPERTS = 3
KEYS = ("experts", "experts.base_layer")


def deltas(folder, rank, scaling):
    """As PEFT reads them: A (experts, rank, in), B (out, rank, experts)."""
    tensors = load_file(folder / "adapter_model.safetensors")
    for key in KEYS:
        A = tensors[f"base_model.model.{key}.lora_A.weight"].astype(np.float64)
        B = tensors[f"base_model.model.{key}.lora_B.weight"].astype(np.float64)
        by_expert = A.reshape(EXPERTS, rank, A.shape[1])
        yield scaling * np.einsum("ore,eri->eoi", B.reshape(B.shape[0], rank, EXPERTS), by_expert)


def saved(tmp_path, **options):
    both = ["experts.up", "experts.down"]
    return save_adapter(Mixture, LoraConfig(r=4, target_modules=[], target_parameters=both, **options), tmp_path / "a")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("block", [2**20, 48])
def test_experts_keep_their_deltas_at_a_larger_rank(tmp_path, monkeypatch, block):
    """rsLoRA: 6 / sqrt(4) is 3; at rank 5 and scale 1 B holds the 3. Blocks of 48 bytes end within every slice."""
    monkeypatch.setattr(stream, "BLOCK", block)
    folder = saved(tmp_path, lora_alpha=6, use_rslora=True)

    _, said = rewritten(folder, tmp_path / "b", functools.partial(uniform, wanted=Wanted(rank=5, unit=True)))

    assert (said["r"], said["lora_alpha"]) == (5, 5)
    for found, expected in zip(deltas(tmp_path / "b", 5, 1.0), deltas(folder, 4, 3.0), strict=True):
        assert np.abs(found - expected).max() < 1e-7 * np.abs(expected).max()


@pytest.mark.filterwarnings("ignore")
def test_patterns_over_several_parameters_are_refused(tmp_path):
    """The file does not say which factors are whose."""
    folder = saved(tmp_path, alpha_pattern={"experts.down": 3})

    with pytest.raises(RefusedError, match="target_parameters with patterns"):
        rewritten(folder, tmp_path / "b", functools.partial(uniform, wanted=Wanted()))
