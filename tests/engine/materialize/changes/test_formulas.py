"""Every change by its formula, in float64, whole and in parts of its rows."""

import pytest
import torch

from engine.errors import HeaderError
from engine.materialize.changes import CHANGES
from engine.materialize.changes.dora import Dora
from engine.materialize.changes.experts import Expert, Experts
from engine.materialize.changes.lowrank import LowRank
from engine.materialize.changes.scale import Scale
from engine.materialize.changes.tokens import Tokens
from engine.materialize.changes.vectors import Added, Shift
from engine.materialize.changes.within import Within
from tests.engine.materialize.arrays import saved

OUT, IN, RANK, EXPERTS = 6, 5, 2, 3


@pytest.fixture
def held(tmp_path):
    """Numbers by name, and where they lie."""
    chance = torch.Generator().manual_seed(7)
    shapes = {
        "A": (RANK, IN), "B": (OUT, RANK), "E": (RANK, 1), "m": (OUT,), "m_in": (IN,), "bias": (OUT,), "other": (OUT,),
        "A3": (EXPERTS * RANK, IN), "B3": (OUT, RANK * EXPERTS), "rows": (3, IN), "l_in": (1, IN), "l_out": (OUT, 1),
        "Ak": (RANK, IN, 3), "Bk": (OUT, RANK, 1), "l_wide": (1, 2 * IN),
    }  # fmt: skip
    numbers = {name: torch.randn(*shape, generator=chance) for name, shape in shapes.items()}
    return {name: one.double() for name, one in numbers.items()}, saved(tmp_path / "a.safetensors", numbers)


def moved(change, W, *, fold=1, step=None):
    """Δ of a weight, asked for in one go or `step` rows at a time, as (rows, columns)."""
    matrix = W.float().reshape(torch.Size(W.shape[:fold]).numel(), -1)
    rows = change.opened(tuple(W.shape), lambda start, stop: matrix[start:stop].clone())
    step = step or len(matrix)
    parts = [
        rows(start, min(start + step, len(matrix)), matrix[start : start + step].clone())
        for start in range(0, len(matrix), step)
    ]
    return torch.cat(parts).double()


def is_close(found, expected):
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()


def drawn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


STEPS = pytest.mark.parametrize("step", [None, 1, 4])


@STEPS
@pytest.mark.parametrize("factor", [0.75, -2.0, 0.0])
def test_factors_are_multiplied(held, step, factor):
    number, place = held
    expected = factor * number["B"] @ number["A"]
    found = moved(LowRank(place["A"], place["B"], factor), drawn(OUT, IN), step=step)
    assert (found - expected).abs().max() <= 1e-6
    turned = moved(LowRank(place["A"], place["B"], factor, transposed=True), drawn(IN, OUT), step=step)
    assert (turned - expected.T).abs().max() <= 1e-6


@STEPS
def test_numbers_of_adalora_lie_between_the_factors(held, step):
    number, place = held
    change = LowRank(place["A"], place["B"], 1.5, E=place["E"])
    is_close(
        moved(change, drawn(OUT, IN), step=step), 1.5 * number["B"] @ torch.diag(number["E"].flatten()) @ number["A"]
    )


@STEPS
def test_kernels_are_flat_rows(held, step):
    number, place = held
    expected = torch.einsum("orx,rik->oik", number["Bk"], number["Ak"]).flatten(1)
    is_close(moved(LowRank(place["Ak"], place["Bk"], 1.0), drawn(OUT, IN, 3), step=step), expected)


@pytest.mark.parametrize("expert", range(EXPERTS))
def test_one_experts_factors_are_every_third_column(held, expert):
    """PEFT keeps B as (out, rank, experts), flat."""
    number, place = held
    A = place["A3"].rows(expert * RANK, RANK)
    found = moved(Expert(A, place["B3"], 0.5, expert, EXPERTS), drawn(OUT, IN))
    B = number["B3"].reshape(OUT, RANK, EXPERTS)[..., expert]
    is_close(found, 0.5 * B @ number["A3"][expert * RANK : (expert + 1) * RANK])


@pytest.mark.parametrize("step", [None, 1, 4, 7])
@pytest.mark.parametrize("transposed", [False, True])
def test_all_experts_in_one_tensor_by_rows_that_cross_them(held, step, transposed):
    """As PEFT writes it: einsum over A (experts, rank, in) and B (out, rank, experts)."""
    number, place = held
    A, B = number["A3"].reshape(EXPERTS, RANK, IN), number["B3"].reshape(OUT, RANK, EXPERTS)
    expected = 2.0 * torch.einsum("ore,eri->eoi", B, A)
    expected = expected.mT if transposed else expected
    W = drawn(*expected.shape)
    found = moved(Experts(place["A3"], place["B3"], 2.0, transposed), W, fold=2, step=step)
    is_close(found, expected.flatten(0, 1))


@STEPS
@pytest.mark.parametrize("weight", [1.0, -0.5])
def test_dora_sets_the_norm_of_every_output(held, step, weight):
    """At the weight 1 the outputs' norms are the magnitudes; of another weight that share of the way is taken."""
    number, place = held
    W = drawn(OUT, IN)
    V = W + 1.5 * number["B"] @ number["A"]
    expected = number["m"][:, None] * V / V.norm(dim=1, keepdim=True) - W
    change = Dora(LowRank(place["A"], place["B"], 1.5), place["m"], weight)
    found = moved(change, W, step=step)
    is_close(found, weight * expected)
    if weight == 1:
        assert torch.allclose((W + found).norm(dim=1), number["m"].abs(), rtol=1e-5)


@STEPS
def test_doras_outputs_are_columns_of_a_turned_weight(held, step):
    number, place = held
    W = drawn(OUT, IN)
    V = W + 1.5 * number["B"] @ number["A"]
    expected = (number["m"][:, None] * V / V.norm(dim=1, keepdim=True) - W).T
    change = Dora(LowRank(place["A"], place["B"], 1.5, transposed=True), place["m"], 1.0)
    is_close(moved(change, W.T.contiguous(), step=step), expected)


def test_doras_norm_is_of_the_bases_own_numbers_and_its_gain_of_what_came_before(held):
    number, place = held
    W, before = drawn(OUT, IN), drawn(OUT, IN, seed=2)
    D = number["B"] @ number["A"]
    gain = (number["m"] / (W + D).norm(dim=1) - 1)[:, None]
    own = W.float()
    rows = Dora(LowRank(place["A"], place["B"], 1.0), place["m"], 1.0).opened((OUT, IN), lambda a, b: own[a:b].clone())
    found = rows(0, OUT, (W + before).float()).double()
    is_close(found, gain * (W + before) + (1 + gain) * D)


@STEPS
@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_vectors_of_ia3_multiply_outputs_or_inputs(held, step, weight):
    number, place = held
    W = drawn(OUT, IN)
    is_close(moved(Scale(place["l_out"], weight), W, step=step), weight * (number["l_out"] - 1) * W)
    is_close(moved(Scale(place["l_in"], weight, columns=True), W, step=step), weight * (number["l_in"] - 1) * W)
    kernel = drawn(OUT, IN, 2, 2)
    expected = weight * (number["l_in"].reshape(1, IN, 1, 1) - 1) * kernel
    is_close(moved(Scale(place["l_in"], weight, columns=True), kernel, step=step), expected.flatten(1))


@STEPS
def test_a_convolution_of_groups_runs_through_the_vector_once_per_group(held, step):
    number, place = held
    kernel = drawn(OUT, IN, 3)
    vector = number["l_wide"].reshape(2, 1, IN, 1)
    expected = ((vector - 1) * kernel.reshape(2, OUT // 2, IN, 3)).reshape(OUT, -1)
    is_close(moved(Scale(place["l_wide"], 1.0, columns=True, groups=2), kernel, step=step), expected)


@STEPS
def test_rows_of_tokens_take_the_place_of_the_tables(held, step):
    """Of a token that comes twice the last row counts; all other rows stay."""
    number, place = held
    W = drawn(OUT, IN)
    expected = torch.zeros(OUT, IN).double()
    expected[4] = 0.5 * (number["rows"][2] - W[4])
    expected[1] = 0.5 * (number["rows"][1] - W[1])
    found = moved(Tokens(place["rows"], (4, 1, 4), 0.5), W, step=step)
    is_close(found, expected)
    assert not found[[0, 2, 3, 5]].any()


@STEPS
def test_what_is_added_to_a_bias(held, step):
    number, place = held
    W = drawn(OUT)
    is_close(moved(Added(place["bias"], -1.5), W, step=step), -1.5 * number["bias"][:, None])
    is_close(
        moved(Shift(place["bias"], place["other"], 0.25), W, step=step),
        0.25 * (number["bias"] - number["other"])[:, None],
    )


@STEPS
def test_changes_of_some_rows_leave_the_others(held, step):
    """The second's norm is of its own rows, wherever they lie."""
    number, place = held
    W = drawn(OUT * 3, IN)
    D = number["B"] @ number["A"]
    last = W[-OUT:]
    V = last + D
    expected = torch.zeros(OUT * 3, IN).double()
    expected[:OUT] = 3.0 * D
    expected[-OUT:] = number["m"][:, None] * V / V.norm(dim=1, keepdim=True) - last
    low_rank = LowRank(place["A"], place["B"], 1.0)
    changes = (LowRank(place["A"], place["B"], 3.0), Dora(low_rank, place["m"], 1.0))
    is_close(moved(Within(changes, ((0, OUT), (2 * OUT, OUT))), W, step=step), expected)
    stack = W.reshape(3, OUT, IN)
    is_close(moved(Within(changes, ((0, OUT), (2 * OUT, OUT)), fold=2), stack, fold=2, step=step), expected)


def test_a_change_gives_rows_of_its_own_that_the_caller_may_overwrite(held):
    _, place = held
    W = drawn(OUT, IN).float()
    low_rank = LowRank(place["A"], place["B"], 1.0)
    kinds = {
        "LowRank": low_rank,
        "Dora": Dora(low_rank, place["m"], 1.0),
        "Scale": Scale(place["l_out"], 1.0),
        "Tokens": Tokens(place["rows"], (0, 1, 2), 1.0),
        "Within": Within((low_rank,), ((0, OUT),)),
        "Expert": Expert(place["A3"].rows(0, RANK), place["B3"], 1.0, 0, EXPERTS),
    }
    assert kinds.keys() | {"Added", "Shift", "Experts"} == CHANGES.keys()
    vectors = {"Added": Added(place["bias"], 1.0), "Shift": Shift(place["bias"], place["other"], 1.0)}
    for change in [*kinds.values(), *vectors.values()]:
        own = W if change in kinds.values() else W[:, :1]
        rows = change.opened(tuple(own.shape), lambda start, stop, own=own: own[start:stop].clone())
        first = rows(0, OUT, own.clone())
        kept = first.clone()
        first.fill_(9.0)
        assert torch.equal(rows(0, OUT, own.clone()), kept)


def test_factors_that_are_cut_short_meanwhile_are_an_error_and_no_zeros(held):
    _, place = held
    with place["A"].file.open("r+b") as file:
        file.truncate(max(place["A"].offset, place["B"].offset) + 4)
    with pytest.raises(HeaderError, match="became shorter"):
        LowRank(place["A"], place["B"], 1.0).opened((OUT, IN), lambda *_: torch.empty(0))
