"""Scales and ranks: small numbers that can be checked on paper."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch
from safetensors.torch import save_file as save_torch

from engine.convert.rewrite.scales import Wanted, uniform
from engine.errors import RefusedError
from tests.engine.compat.small_adapter import CONFIG, P, tensors, write_adapter
from tests.engine.convert.rewrite.adapters import lora, rewritten, save

Q, UP = f"{P}self_attn.q_proj", f"{P}mlp.up_proj"


def fold(**wanted):
    return functools.partial(uniform, wanted=Wanted(**wanted))


def folded(tmp_path, config, *, weights=None, **wanted):
    folder = write_adapter(tmp_path / "a", config={**CONFIG, **config}, weights=weights)
    done, config = rewritten(folder, tmp_path / "b", fold(**wanted))
    said = {key: config[key] for key in ("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern")}
    return done, said, load_file(tmp_path / "b" / "adapter_model.safetensors")


def plain(r, alpha):
    return {"r": r, "lora_alpha": alpha, "use_rslora": False, "rank_pattern": {}, "alpha_pattern": {}}


def test_rslora_goes_into_alpha_and_no_tensor_changes(tmp_path):
    """alpha / sqrt(2) is alpha' / 2 for alpha' = alpha * sqrt(2)."""
    done, config, found = folded(tmp_path, {"use_rslora": True, "lora_alpha": 3})

    assert config == plain(2, pytest.approx(4.242640687119285, abs=1e-15))
    assert {name: one.tobytes() for name, one in found.items()} == {n: one.tobytes() for n, one in tensors().items()}
    assert (done.tensors, done.rounded, done.largest_change) == (4, 0, 0.0)


def test_rslora_goes_into_b_where_alpha_must_be_whole(tmp_path):
    """3 / sqrt(2) = 2.1213203..., so B is scaled by it and alpha is r."""
    done, config, found = folded(tmp_path, {"use_rslora": True, "lora_alpha": 3}, whole=True)

    assert config == plain(2, 2)
    assert isinstance(config["lora_alpha"], int)
    expected = (tensors()[f"{Q}.lora_B.weight"].astype(np.float64) * 2.1213203435596424).astype(np.float32)
    assert np.array_equal(found[f"{Q}.lora_B.weight"], expected)
    assert np.array_equal(found[f"{Q}.lora_A.weight"], tensors()[f"{Q}.lora_A.weight"])
    assert done.rounded == 2


def test_rslora_of_a_square_rank_stays_whole(tmp_path):
    """16 / sqrt(4) is 32 / 4."""
    weights = {
        f"{Q}.lora_A.weight": np.ones((4, 4), np.float32),
        f"{Q}.lora_B.weight": np.ones((6, 4), np.float32),
    }
    config = {"use_rslora": True, "lora_alpha": 16, "r": 4}

    _, said, found = folded(tmp_path, config, weights=weights, whole=True)

    assert said == plain(4, 32)
    assert (found[f"{Q}.lora_B.weight"] == 1).all()


def test_the_scaling_of_most_modules_is_kept_and_the_others_go_into_b(tmp_path):
    """q: rank 1, alpha 6, so 6; up: rank 2, alpha 4, so 2, the lower; of one module each the larger scaling is kept."""
    weights = tensors()
    weights[f"{Q}.lora_A.weight"] = weights[f"{Q}.lora_A.weight"][:1]
    weights[f"{Q}.lora_B.weight"] = np.ascontiguousarray(weights[f"{Q}.lora_B.weight"][:, :1])

    done, config, found = folded(
        tmp_path, {"rank_pattern": {"q_proj": 1}, "alpha_pattern": {"q_proj": 6}}, weights=weights
    )

    assert config == plain(2, 12)
    assert found[f"{Q}.lora_A.weight"][1].tolist() == [0, 0, 0, 0]
    assert found[f"{Q}.lora_B.weight"][:, 1].tolist() == [0] * 6
    assert np.array_equal(found[f"{Q}.lora_B.weight"][:, :1], weights[f"{Q}.lora_B.weight"])
    third = (weights[f"{UP}.lora_B.weight"].astype(np.float64) / 3).astype(np.float32)
    assert np.array_equal(found[f"{UP}.lora_B.weight"], third)
    assert done.rounded == 1


def test_a_reader_without_alpha_gets_scale_1(tmp_path):
    """4 / 2 = 2 goes into B, which no float32 rounds."""
    done, config, found = folded(tmp_path, {}, unit=True)

    assert config == plain(2, 2)
    assert np.array_equal(found[f"{UP}.lora_B.weight"], 2 * tensors()[f"{UP}.lora_B.weight"])
    assert done.rounded == 0


def test_a_larger_rank_is_padded_with_zeros(tmp_path):
    _, config, found = folded(tmp_path, {}, rank=5)

    assert config == plain(5, 10)
    assert (found[f"{Q}.lora_A.weight"].shape, found[f"{Q}.lora_B.weight"].shape) == ((5, 4), (6, 5))
    assert np.array_equal(found[f"{Q}.lora_A.weight"][:2], tensors()[f"{Q}.lora_A.weight"])
    assert not found[f"{Q}.lora_A.weight"][2:].any()
    assert not found[f"{Q}.lora_B.weight"][:, 2:].any()


def test_a_smaller_rank_is_refused(tmp_path):
    with pytest.raises(RefusedError, match="rank 1: expected at least 2") as caught:
        folded(tmp_path, {}, rank=1)

    assert [finding.rule for finding in caught.value.findings] == ["rewrite-rank"]


def test_alpha_zero_stays_without_effect(tmp_path):
    _, config, found = folded(tmp_path, {"lora_alpha": 0, "rank_pattern": {"nowhere": 3}})

    assert config == plain(2, 2)
    assert not found[f"{Q}.lora_B.weight"].any()


def test_a_negative_alpha_goes_into_b(tmp_path):
    _, config, found = folded(tmp_path, {"lora_alpha": -2})

    assert config == plain(2, 2)
    assert np.array_equal(found[f"{Q}.lora_B.weight"], -tensors()[f"{Q}.lora_B.weight"])


def test_what_overflows_its_dtype_is_refused(tmp_path):
    weights = {name: one.astype(np.float16) for name, one in tensors().items()}

    with pytest.raises(RefusedError, match=r"lora_B\.weight: numbers times 1e\+06 are not finite in F16"):
        folded(tmp_path, {"lora_alpha": 2_000_000}, weights=weights, unit=True)


def test_bfloat16_is_rounded_once_and_the_change_is_told(tmp_path):
    """Half a unit in the last of 8 digits, 2^-8 of a number at most; torch's own rounding of the exact product."""
    weights = {name: torch.from_numpy(one).bfloat16() for name, one in tensors().items()}
    folder = write_adapter(tmp_path / "a", config={**CONFIG, "lora_alpha": 3})
    save_torch(weights, folder / "adapter_model.safetensors")

    done, _ = rewritten(folder, tmp_path / "b", fold(unit=True))

    found = load_torch(tmp_path / "b" / "adapter_model.safetensors")
    for name, one in weights.items():
        expected = (one.double() * 1.5).bfloat16() if "lora_B" in name else one
        assert torch.equal(found[name], expected)
    assert done.rounded == 2
    assert 0.0005 < done.largest_change <= 2**-8


REFUSED = {
    "QALoRA": ({"use_qalora": True}, "use_qalora"),
    "BD-LoRA": ({"use_bdlora": {"target_modules_bd_a": []}}, "use_bdlora"),
    "tied factors": ({"ensure_weight_tying": True, "alpha_pattern": {"q_proj": 7}}, "ensure_weight_tying"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_other_factors_is_refused_by_name(tmp_path, case):
    config, named = REFUSED[case]

    with pytest.raises(RefusedError, match=named):
        folded(tmp_path, config)


def test_a_lora_bias_is_refused_by_name(tmp_path):
    """Its effect is scaling * bias, which a folded scaling would change."""
    folder = save(tmp_path / "a", lora(lora_bias=True))

    with pytest.raises(RefusedError, match=r"lora_B\.bias: depends on the module's rank or scaling"):
        rewritten(folder, tmp_path / "b", fold())


def test_groups_that_do_not_divide_the_rank_are_refused(tmp_path):
    folder = save(tmp_path / "a", lora(target_modules=["grouped", "lin0"], rank_pattern={"lin0": 5}))

    with pytest.raises(RefusedError, match="grouped: expected a rank that its 2 groups divide, found 5"):
        rewritten(folder, tmp_path / "b", fold())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_many_halves_are_rounded_as_few_are(tmp_path, dtype):
    """Large blocks go through a table of all 65,536 numbers: torch's rounding of the exact product, each."""
    torch.manual_seed(7)
    weights = {
        "base_model.model.q_proj.lora_A.weight": torch.randn((2, 40_000)).to(dtype),
        "base_model.model.q_proj.lora_B.weight": torch.randn((40_000, 2)).to(dtype),
    }
    folder = write_adapter(tmp_path / "a", config={**CONFIG, "lora_alpha": 0.7})
    save_torch(weights, folder / "adapter_model.safetensors")

    done, _ = rewritten(folder, tmp_path / "b", fold(unit=True))

    found = load_torch(tmp_path / "b" / "adapter_model.safetensors")["base_model.model.q_proj.lora_B.weight"]
    exact = weights["base_model.model.q_proj.lora_B.weight"].double() * 0.35
    # from float64, in one step: the nearest of the two halves around each number
    assert torch.equal(found, nearest(exact, dtype))
    change = ((found.double() - exact).norm() / exact.norm()).item()
    assert done.largest_change == pytest.approx(change, rel=1e-6)


def nearest(exact, dtype):
    """Torch may round twice on its way from float64; a third look at the neighbours undoes that."""
    rough = exact.to(dtype)
    bits = rough.view(torch.int16)
    candidates = torch.stack([rough, (bits + 1).view(dtype), (bits - 1).view(dtype)]).double()
    errors = (candidates - exact).abs()
    errors[~candidates.isfinite()] = float("inf")
    best = torch.take_along_dim(candidates, errors.argmin(0, keepdim=True), 0)[0]
    return best.to(dtype)


def test_an_overflow_is_found_in_the_table_too(tmp_path):
    weights = {
        "base_model.model.q_proj.lora_A.weight": torch.ones((2, 40_000)).half(),
        "base_model.model.q_proj.lora_B.weight": torch.ones((40_000, 2)).half(),
    }
    weights["base_model.model.q_proj.lora_B.weight"][-1, -1] = 60_000
    folder = write_adapter(tmp_path / "a", config={**CONFIG, "lora_alpha": 3})
    save_torch(weights, folder / "adapter_model.safetensors")

    with pytest.raises(RefusedError, match="not finite in F16"):
        rewritten(folder, tmp_path / "b", fold(unit=True))
