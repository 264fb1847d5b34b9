"""Tensors that few bases have: empty ones, single numbers, stacks, dtypes of 8 bits."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.errors import RefusedError
from engine.materialize import materialize
from engine.materialize.plan import plan
from engine.materialize.verify import verify
from tests.engine.materialize.small import CONFIG, make_adapter, request, tensors

FP8 = "model.layers.0.self_attn.q_proj.weight"


def base_with(folder, **more):
    """The small base with these tensors besides, in one file, and its adapter."""
    make_adapter(folder / "adapter")
    (folder / "base").mkdir()
    (folder / "base" / "config.json").write_text(json.dumps(CONFIG))
    save_file({**tensors(), **more}, folder / "base" / "model.safetensors", {"format": "pt"})
    return folder


def made(folder):
    return {name: one for file in folder.glob("*.safetensors") for name, one in load_file(file).items()}


@pytest.mark.parametrize("dtype", [None, "F32", "F16"])
def test_empty_tensors_and_single_numbers_go_through_a_cast(tmp_path, dtype):
    odd = {
        "empty": torch.zeros(5, 0, dtype=torch.bfloat16),
        "none": torch.zeros(0, 4, dtype=torch.bfloat16),
        "between": torch.zeros(2, 0, 3, dtype=torch.bfloat16),
        "scalar": torch.tensor(1.5, dtype=torch.bfloat16),
    }
    materialize(request(base_with(tmp_path, **odd), dtype=dtype), tmp_path / "out")
    found, expected = made(tmp_path / "out"), {None: torch.bfloat16, "F32": torch.float32, "F16": torch.float16}
    for name, before in odd.items():
        assert (found[name].shape, found[name].dtype) == (before.shape, expected[dtype])
        assert torch.equal(found[name], before.to(expected[dtype]))


@pytest.mark.parametrize("dtype", ["F32", "F16"])
def test_whole_numbers_masks_and_complex_layouts_keep_their_dtype_under_a_cast(tmp_path, dtype):
    odd = {
        "position_ids": torch.arange(2**24, 2**24 + 5)[None],  # float32 would not hold all of them
        "num_batches_tracked": torch.tensor(2**40 + 1),
        "mask": torch.ones(1, 1, 3, 3, dtype=torch.bool).tril(),
        "bytes": torch.arange(256).to(torch.uint8),
        "half_words": torch.tensor([-32768, 32767], dtype=torch.int16),
    }
    materialize(request(base_with(tmp_path, **odd), dtype=dtype), tmp_path / "out")
    found = made(tmp_path / "out")
    for name, before in odd.items():
        assert found[name].dtype == before.dtype
        assert torch.equal(found[name], before)


def test_a_stack_that_is_only_cast_goes_by_rows_and_not_by_whole_experts(tmp_path):
    stack = torch.randn(3, 20, 8)
    planned = plan(request(base_with(tmp_path, experts=stack), dtype="BF16"), tmp_path / "out")
    (task,) = [task for task in planned.tasks if task.name == "experts"]
    assert (task.source.matrix, task.target.matrix) == ((60, 8), (60, 8))
    materialize(request(tmp_path, dtype="BF16"), tmp_path / "out")
    assert torch.equal(made(tmp_path / "out")["experts"], stack.bfloat16())
    verify(tmp_path / "out", tmp_path / "base", request(tmp_path).sources)


def test_draws_between_neighbours_that_are_not_known_are_refused_before_anything_is_written(tmp_path):
    folder = base_with(tmp_path, **{FP8: tensors()[FP8].to(torch.float8_e4m3fn)})
    with pytest.raises(RefusedError) as refused:
        materialize(request(folder, rounding="stochastic"), tmp_path / "out")
    assert [(one.rule, one.message) for one in refused.value.findings] == [
        ("rounding-dtype", f"{FP8}: rounding stochastic: expected a float of 16, 32 or 64 bits, found F8_E4M3")
    ]
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_a_float_of_8_bits_that_nothing_changes_is_no_reason_to_refuse(tmp_path):
    eight = torch.randn(4, 4).to(torch.float8_e5m2)
    materialize(request(base_with(tmp_path, untouched=eight), rounding="stochastic", seed=2), tmp_path / "out")
    assert torch.equal(made(tmp_path / "out")["untouched"].view(torch.uint8), eight.view(torch.uint8))


def test_a_change_of_8_bit_floats_is_the_nearest_of_them(tmp_path):
    folder = base_with(tmp_path, **{FP8: tensors()[FP8].to(torch.float8_e4m3fn)})
    materialize(request(folder), tmp_path / "out")
    factors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    A, B = (factors[f"base_model.model.{FP8.removesuffix('weight')}lora_{one}.weight"] for one in "AB")
    exact = tensors()[FP8].to(torch.float8_e4m3fn).double() + 2 * B.double() @ A.double()
    found = made(tmp_path / "out")[FP8]
    assert found.dtype == torch.float8_e4m3fn
    # Three bits behind the first: half a step is a sixteenth; below 2^-6 steps are 2^-9.
    assert ((found.double() - exact).abs() <= (exact.abs() / 16).clamp(min=2.0**-10) + 1e-5).all()
