"""TIES on matrices: by hand, and against loops over single elements."""

import itertools

import pytest
import torch

from engine.merge.dropping.thresholds import count
from engine.merge.given.options import Options
from engine.merge.methods.signs import agreed, threshold, ties, trimmed
from tests.engine.merge.factories import normal


def options(**given):
    return Options(
        **{"density": 1.0, "rescale": "none", "elect": "weighted", "majority_sign": "total", "scale": 1.0, **given}
    )


def row(*values):
    return torch.tensor([values], dtype=torch.float64)


def element(values, weights, *, elect, majority_sign, scale):
    """One element by the definition, in plain numbers."""
    votes = 0.0
    for value, weight in zip(values, weights, strict=True):
        c = weight if elect == "weighted" else (weight > 0) - (weight < 0)
        votes += c * (value if majority_sign == "total" else (value > 0) - (value < 0))
    elected = 1 if votes >= 0 else -1
    agree = [(v, w) for v, w in zip(values, weights, strict=True) if v * w * elected > 0]
    return scale * sum(v * w for v, w in agree) / sum(abs(w) for _, w in agree) if agree else 0.0


@pytest.mark.parametrize(("size", "density", "kept"), [(10, 0.2, 2), (10, 0.29, 2), (10, 0.01, 1), (7, 1.0, 7)])
def test_a_share_is_rounded_down_and_never_nothing(size, density, kept):
    assert count(size, density) == kept


def test_trim_keeps_the_largest_magnitudes_of_either_sign():
    matrix = row(0.5, -3.0, 2.0, -1.0, 0.1)

    assert float(threshold(matrix, 0.4)) == 2.0
    assert trimmed(matrix, threshold(matrix, 0.4)).tolist() == [[0.0, -3.0, 2.0, 0.0, 0.0]]
    assert trimmed(matrix, 2.0, factor=2.5).tolist() == [[0.0, -7.5, 5.0, 0.0, 0.0]]


def test_ties_at_the_threshold_are_all_kept():
    matrix = row(1.0, -1.0, 1.0, 0.5)

    assert trimmed(matrix, threshold(matrix, 0.25)).tolist() == [[1.0, -1.0, 1.0, 0.0]]


def test_mean_by_hand():
    """+: (2 + 4)/2. Outvoted: only the -5. One alone: 3 over one. Nobody: 0. A drawn vote elects +."""
    found = agreed([row(2.0, -5.0, 3.0, 0.0, 1.0), row(4.0, 1.0, 0.0, 0.0, -1.0)], [1.0, 1.0], options())

    assert found.tolist() == [[3.0, -5.0, 3.0, 0.0, 1.0]]


def test_weights_elect_or_only_their_signs_do():
    """3·1 against -1·2: with weights + wins, without - does."""
    trims, weights = [row(1.0), row(-2.0)], [3.0, 1.0]

    assert agreed(trims, weights, options()).tolist() == [[1.0]]
    assert agreed(trims, weights, options(elect="unweighted")).tolist() == [[-2.0]]


def test_magnitudes_elect_or_only_signs_do():
    """-5 outweighs 1 + 2, but two signs outnumber one."""
    trims, weights = [row(1.0), row(2.0), row(-5.0)], [1.0, 1.0, 1.0]

    assert agreed(trims, weights, options()).tolist() == [[-5.0]]
    assert agreed(trims, weights, options(majority_sign="frequency")).tolist() == [[1.5]]


def test_negative_weight_votes_for_the_other_sign():
    """-2·3 = -6 and 1·4: - is elected, and the mean is -6/2."""
    assert agreed([row(3.0), row(4.0)], [-2.0, 1.0], options()).tolist() == [[-3.0]]


@pytest.mark.parametrize(
    ("elect", "majority_sign", "weights"),
    list(itertools.product(["weighted", "unweighted"], ["total", "frequency"], [(0.7, 0.3, 0.5), (0.7, -0.4, 0.0)])),
)
def test_every_element_by_the_definition(elect, majority_sign, weights):
    trims = [trimmed(normal(seed, 6, 9).double(), 0.2) for seed in (1, 2, 3)]

    found = agreed(trims, weights, options(elect=elect, majority_sign=majority_sign, scale=1.7))

    expected = [
        [
            element([float(t[i, j]) for t in trims], weights, elect=elect, majority_sign=majority_sign, scale=1.7)
            for j in range(9)
        ]
        for i in range(6)
    ]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-14, atol=0)


def test_blocks_of_rows_agree_as_the_whole_does():
    trims = [normal(seed, 8, 5) for seed in (1, 2)]
    whole = agreed(trims, [0.6, 0.4], options())

    parts = [agreed([trim[at : at + 3] for trim in trims], [0.6, 0.4], options()) for at in (0, 3, 6)]

    assert torch.equal(torch.cat(parts), whole)


def test_each_matrix_is_trimmed_by_itself_and_rescaled():
    """Half of each: 4 and -40 remain, doubled; nothing meets, so they stand beside each other."""
    found = ties([row(4.0, 1.0), row(3.0, -40.0)], [1.0, 1.0], options(density=0.5, rescale="density"))

    assert found.tolist() == [[8.0, -80.0]]


def test_all_zeros_give_zeros():
    assert not ties([torch.zeros(3, 4), torch.zeros(3, 4)], [1.0, 1.0], options(density=0.2)).any()


@pytest.mark.parametrize("size", [5e-324, 1e-42, 1e-30, 1e39, 1e300])
def test_only_the_ratio_of_weights_counts_however_small_or_large(size):
    """float32 holds no 1e-42 that could be divided by, and no 1e39."""
    trims = [normal(seed, 4, 5) for seed in (1, 2)]

    found = agreed(trims, [size, -size], options())

    assert torch.allclose(found, agreed(trims, [1.0, -1.0], options()), rtol=1e-6, atol=0)
