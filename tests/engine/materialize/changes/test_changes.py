"""Every change against its definition in float64, by any blocks of rows, and as JSON and back."""

import json
from dataclasses import FrozenInstanceError, fields, is_dataclass

import pytest
import torch
from safetensors.torch import save_file

from engine.format.files.header import read_header
from engine.materialize.changes import CHANGES
from engine.materialize.changes.dora import Dora
from engine.materialize.changes.experts import Expert, Experts
from engine.materialize.changes.lowrank import LowRank
from engine.materialize.changes.scale import Scale
from engine.materialize.changes.tokens import Tokens
from engine.materialize.changes.vectors import Added, Shift
from engine.materialize.changes.within import Within
from engine.materialize.stored import blocks
from engine.materialize.stored.place import Place
from engine.materialize.tasks.wire import from_json, to_json

DRAW = torch.Generator().manual_seed(3)
NUMBERS = {
    name: torch.randn(*shape, generator=DRAW)
    for name, shape in {
        "A": (4, 10),
        "B": (12, 4),
        "E": (4, 1),
        "m": (12,),
        "kernel_A": (4, 5, 3, 3),
        "kernel_B": (12, 4, 1, 1),
        "kernel_m": (1, 12, 1, 1),
        "experts_A": (6, 10),
        "experts_B": (12, 6),
        "rows": (3, 10),
        "out": (12, 1),
        "in": (1, 10),
        "vector": (12,),
        "other": (12,),
        "channels": (1, 6, 1),
    }.items()
}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    file = tmp_path_factory.mktemp("changes") / "adapter.safetensors"
    save_file(NUMBERS, file)
    header = read_header(file)
    return {
        name: Place(file, header.data_offset + info.start, info.dtype, info.shape)
        for name, info in header.tensors.items()
    }


def of(name):
    return NUMBERS[name].double()


def moved(change, W, fold=1, step=5):
    """What the change makes of W by blocks of `step` rows, float64; W beside is read for it as files are."""
    matrix = W.flatten(0, fold - 1).flatten(1) if W.dim() > 1 else W.view(-1, 1)
    rows = change.opened(tuple(W.shape), lambda start, stop: matrix[start:stop].clone())
    parts = [
        rows(start, min(start + step, len(matrix)), matrix[start : start + step])
        for start in range(0, len(matrix), step)
    ]
    return torch.cat(parts).view(W.shape).double()


def near(found, expected):
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


W = torch.randn(12, 10, generator=DRAW)
BA = of("B") @ of("A")


def test_low_rank_on_a_weight_and_on_its_transpose(places):
    for step in (1, 5, 12, 40):
        near(moved(LowRank(places["A"], places["B"], 0.75), W, step=step), 0.75 * BA)
    near(moved(LowRank(places["A"], places["B"], 0.75, transposed=True), W.T.contiguous()), 0.75 * BA.T)


def test_low_rank_with_adaloras_numbers_between(places):
    change = LowRank(places["A"], places["B"], -2.0, E=places["E"])
    near(moved(change, W), -2.0 * of("B") @ torch.diag(of("E").flatten()) @ of("A"))


def test_low_rank_on_a_convolution(places):
    kernels = torch.randn(12, 5, 3, 3, generator=DRAW)
    change = LowRank(places["kernel_A"], places["kernel_B"], 0.5)
    expected = torch.einsum("or,rihw->oihw", of("kernel_B").flatten(1), of("kernel_A"))
    near(moved(change, kernels), 0.5 * expected)


def test_low_rank_of_one_expert_out_of_the_factors_of_all(places):
    """Expert 2 of 3: its two rows of A, and of B every third column from the second on."""
    change = Expert(places["experts_A"].rows(4, 2), places["experts_B"], 1.5, 2, 3)
    near(moved(change, W), 1.5 * of("experts_B")[:, [2, 5]] @ of("experts_A")[4:])


@pytest.mark.parametrize("step", [1, 5, 40])
@pytest.mark.parametrize("transposed", [False, True])
def test_experts_in_one_tensor(places, transposed, step):
    change = Experts(places["experts_A"], places["experts_B"], 0.3, transposed)
    each = [of("experts_B")[:, one::3] @ of("experts_A")[2 * one : 2 * one + 2] for one in range(3)]
    expected = 0.3 * torch.stack([D.T if transposed else D for D in each])
    near(moved(change, torch.zeros_like(expected).float(), fold=2, step=step), expected)


@pytest.mark.parametrize("weight", [1.0, -0.4])
@pytest.mark.parametrize("block", [7, 1 << 17])
def test_dora_sets_the_norm_of_every_output(places, monkeypatch, weight, block):
    monkeypatch.setattr(blocks, "BLOCK", block)
    whole = W.double() + 0.5 * BA
    expected = weight * (whole * (of("m") / whole.norm(dim=1)).view(-1, 1) - W.double())
    plain = LowRank(places["A"], places["B"], 0.5)
    near(moved(Dora(plain, places["m"], weight), W), expected)
    turned = LowRank(places["A"], places["B"], 0.5, transposed=True)
    near(moved(Dora(turned, places["m"], weight), W.T.contiguous()), expected.T)


def test_dora_of_a_convolution_has_a_norm_per_kernel(places):
    kernels = torch.randn(12, 5, 3, 3, generator=DRAW)
    whole = kernels.double() + torch.einsum("or,rihw->oihw", of("kernel_B").flatten(1), of("kernel_A"))
    scale = of("kernel_m").flatten() / whole.flatten(1).norm(dim=1)
    change = Dora(LowRank(places["kernel_A"], places["kernel_B"], 1.0), places["kernel_m"], 1.0)
    near(moved(change, kernels), whole * scale.view(-1, 1, 1, 1) - kernels.double())


def test_dora_scales_what_earlier_changes_left_and_takes_its_norms_from_the_base(places):
    change = Dora(LowRank(places["A"], places["B"], 0.5), places["m"], 1.0)
    rows = change.opened((12, 10), lambda start, stop: W[start:stop].clone())
    before = 3.0 * W
    gain = (of("m") / (W.double() + 0.5 * BA).norm(dim=1) - 1).view(-1, 1)
    near(rows(0, 12, before).double(), gain * before.double() + (1 + gain) * 0.5 * BA)


def test_tokens_replace_their_rows_and_the_last_of_one_counts(places):
    found = moved(Tokens(places["rows"], (2, 11, 2), 0.5), W)
    expected = torch.zeros(12, 10, dtype=torch.float64)
    expected[2] = 0.5 * (of("rows")[2] - W[2].double())
    expected[11] = 0.5 * (of("rows")[1] - W[11].double())
    near(found, expected)
    assert (found[[0, 1, 3]] == 0).all()


def test_scales_of_outputs_and_of_inputs(places):
    near(moved(Scale(places["out"], 0.5), W), W.double() * 0.5 * (of("out") - 1))
    near(moved(Scale(places["in"], 0.5, columns=True), W), W.double() * 0.5 * (of("in") - 1))
    kernels = torch.randn(12, 10, 3, generator=DRAW)
    near(moved(Scale(places["in"], 1.0, columns=True), kernels), kernels.double() * (of("in").view(1, 10, 1) - 1))


def test_scales_of_the_inputs_of_a_grouped_convolution(places):
    """Three groups of two inputs each: the first four of twelve outputs see the first two."""
    kernels = torch.randn(12, 2, 3, generator=DRAW)
    own = of("channels").view(3, 1, 2, 1) - 1
    expected = (kernels.double().view(3, 4, 2, 3) * own).view(12, 2, 3)
    near(moved(Scale(places["channels"], 1.0, columns=True, groups=3), kernels), expected)


def test_vectors_are_added_and_ways_to_a_copy_taken(places):
    bias = torch.randn(12, generator=DRAW)
    near(moved(Added(places["vector"], 0.25), bias), 0.25 * of("vector"))
    near(moved(Shift(places["vector"], places["other"], 0.25), bias), 0.25 * (of("vector") - of("other")))


def test_changes_within_rows_leave_the_others_alone(places):
    parts = torch.randn(30, 10, generator=DRAW)
    change = Within(
        (LowRank(places["A"], places["B"], 1.0), Dora(LowRank(places["A"], places["B"], 1.0), places["m"], 1.0)),
        ((2, 12), (16, 12)),
    )
    expected = torch.zeros(30, 10, dtype=torch.float64)
    expected[2:14] = BA
    whole = parts[16:28].double() + BA
    expected[16:28] = whole * (of("m") / whole.norm(dim=1)).view(-1, 1) - parts[16:28].double()
    for step in (1, 7, 30):
        near(moved(change, parts, step=step), expected)


def test_changes_within_the_rows_of_a_stack_see_matrices(places):
    stack = torch.zeros(3, 12, 10)
    change = Within((LowRank(places["A"], places["B"], 1.0),), ((12, 12),), fold=2)
    expected = torch.zeros(3, 12, 10, dtype=torch.float64)
    expected[1] = BA
    near(moved(change, stack, fold=2, step=5), expected)


def test_every_change_is_frozen_plain_data_and_comes_back_from_json(places):
    held = {
        "LowRank": LowRank(places["A"], places["B"], 0.5, transposed=True, E=places["E"]),
        "Expert": Expert(places["A"], places["B"], 0.5, 1, 2),
        "Dora": Dora(LowRank(places["A"], places["B"], 0.5), places["m"], 0.7),
        "Experts": Experts(places["A"], places["B"], 0.5, transposed=True),
        "Tokens": Tokens(places["rows"], (3, 9), 0.5),
        "Scale": Scale(places["in"], 0.5, columns=True, groups=2),
        "Added": Added(places["vector"], 0.5),
        "Shift": Shift(places["vector"], places["other"], 0.5),
        "Within": Within((Added(places["vector"], 0.5),), ((0, 12),), 2),
    }
    assert held.keys() == CHANGES.keys()
    for name, change in held.items():
        assert type(change) is CHANGES[name]
        assert is_dataclass(change)
        assert from_json(json.loads(json.dumps(to_json(change)))) == change
        with pytest.raises(FrozenInstanceError):
            setattr(change, fields(change)[0].name, None)
