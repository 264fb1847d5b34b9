"""Changes as values, what they look at, and what they read twice: plain data that any worker can carry out."""

import json
from dataclasses import FrozenInstanceError, fields, is_dataclass

import pytest
import torch

from engine.materialize.changes import CHANGES
from engine.materialize.changes.dora import Dora
from engine.materialize.changes.experts import Expert, Experts
from engine.materialize.changes.lowrank import LowRank
from engine.materialize.changes.scale import Scale
from engine.materialize.changes.tokens import Tokens
from engine.materialize.changes.vectors import Added, Shift
from engine.materialize.changes.within import Within
from engine.materialize.stored import blocks
from engine.materialize.tasks.wire import from_json, to_json
from tests.engine.materialize.arrays import saved

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
        "rows": (3, 10),
        "in": (1, 10),
        "vector": (12,),
        "other": (12,),
    }.items()
}
W = torch.randn(12, 10, generator=DRAW)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("changes") / "adapter.safetensors", NUMBERS)


def of(name):
    return NUMBERS[name].double()


def whole(change, W):
    """What the change makes of all rows of W at once, float64."""
    matrix = W.flatten(1)
    rows = change.opened(tuple(W.shape), lambda start, stop: matrix[start:stop].clone())
    return rows(0, len(matrix), matrix).view(W.shape).double()


def near(found, expected):
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("block", [7, 40, 1 << 17])
def test_doras_norms_are_of_whole_outputs_whatever_the_block(places, monkeypatch, block):
    """Blocks of one row, of four, of all: norms of rows stand beside each other, norms of columns add up."""
    monkeypatch.setattr(blocks, "BLOCK", block)
    V = W.double() + 0.5 * of("B") @ of("A")
    expected = V * (of("m") / V.norm(dim=1)).view(-1, 1) - W.double()
    near(whole(Dora(LowRank(places["A"], places["B"], 0.5), places["m"], 1.0), W), expected)
    turned = LowRank(places["A"], places["B"], 0.5, transposed=True)
    near(whole(Dora(turned, places["m"], 1.0), W.T.contiguous()), expected.T)


def test_dora_of_a_convolution_has_a_norm_per_kernel(places):
    kernels = torch.randn(12, 5, 3, 3, generator=DRAW)
    V = kernels.double() + torch.einsum("or,rihw->oihw", of("kernel_B").flatten(1), of("kernel_A"))
    scale = of("kernel_m").flatten() / V.flatten(1).norm(dim=1)
    change = Dora(LowRank(places["kernel_A"], places["kernel_B"], 1.0), places["kernel_m"], 1.0)
    near(whole(change, kernels), V * scale.view(-1, 1, 1, 1) - kernels.double())


class Seen(int):
    """A row's number that counts how often it is compared."""

    compared = 0

    def __lt__(self, other):
        Seen.compared += 1
        return int(self) < int(other)

    def __gt__(self, other):
        Seen.compared += 1
        return int(self) > int(other)


@pytest.mark.parametrize("parts", [64, 512])
def test_a_block_looks_at_the_parts_that_it_meets_and_few_others(places, parts):
    """Parts of 12 rows, blocks of 6: each finds its one by halving, where looking at all would be `parts` times."""
    bias = Added(places["vector"], 1.0)
    change = Within((bias,) * parts, tuple((Seen(12 * part), 12) for part in reversed(range(parts))))
    rows = change.opened((12 * parts,), lambda start, stop: torch.zeros(stop - start, 1))
    Seen.compared = 0
    found = [rows(start, start + 6, torch.zeros(6, 1)) for start in range(0, 12 * parts, 6)]
    assert torch.equal(torch.cat(found).view(parts, 12), NUMBERS["vector"].expand(parts, 12))
    assert Seen.compared <= 2 * parts * (2 * parts.bit_length() + 4)


def test_parts_need_not_touch_nor_fill_a_block(places):
    """A block that ends before the first part, one between two parts, one after the last, one over all."""
    change = Within((Added(places["vector"], 1.0), Added(places["other"], 1.0)), ((40, 12), (10, 12)))
    rows = change.opened((60,), lambda start, stop: torch.zeros(stop - start, 1))
    expected = torch.zeros(60, 1)
    expected[10:22, 0], expected[40:52, 0] = NUMBERS["other"], NUMBERS["vector"]
    for start, stop in ((0, 10), (0, 11), (21, 22), (22, 40), (21, 41), (52, 60), (51, 60), (0, 60)):
        assert torch.equal(rows(start, stop, torch.zeros(stop - start, 1)), expected[start:stop])


def test_every_change_is_frozen_plain_data_and_comes_back_from_json(places):
    held = {
        "LowRank": LowRank(places["A"], places["B"], 0.5, transposed=True, E=places["E"]),
        "Dora": Dora(LowRank(places["A"], places["B"], 0.5), places["m"], 0.7),
        "Expert": Expert(places["A"], places["B"], 0.5, 1, 2),
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
