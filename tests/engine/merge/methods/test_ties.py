"""`ties` and `magnitude_prune` against their definitions, by hand and in float64."""

import numpy as np
import pytest
import torch

from engine.merge import Part
from tests.engine.merge.elementwise import combined, dense, disjoint_mean, part, product, trimmed
from tests.engine.merge.factories import best, distance

SHAPES = [(12, 20), (20, 12), (1, 7), (7, 1)]
FULL = 20
"""A rank that cuts nothing of these shapes."""


def matrix(rows, scaling=1.0):
    """A part that is the matrix of `rows`."""
    B = torch.tensor(rows, dtype=torch.float64)
    return Part(B / scaling, torch.eye(B.shape[1], dtype=torch.float64), scaling)


def test_ties_by_hand():
    """Half of four elements are kept. Column by column: 4 and 2 agree on +; -3 and 1 elect -; the last has one voice.

    D̃_1 = [4 -3; 0 0], D̃_2 = [2 0; 0 5] with weights 1 and 0.5: (4 + 1)/1.5, -3, 0, 5.
    """
    one, two = matrix([[4.0, -3.0], [0.5, 0.25]], 2.0), matrix([[2.0, 1.0], [0.5, 5.0]], 0.5)

    found = product(combined("ties", [one, two], [1.0, 0.5], rank=2, density=0.5), 2)

    np.testing.assert_allclose(found, [[10 / 3, -3.0], [0.0, 5.0]], atol=1e-6)


def test_conflicts_are_decided_by_the_weights_unless_told_otherwise():
    """3 against -2, with weights 1 and 2: 3 - 4 elects -; without weights, + is."""
    parts = [matrix([[3.0]]), matrix([[-2.0]])]

    weighted, unweighted = (
        product(combined("ties", parts, [1.0, 2.0], rank=1, density=1.0, elect=elect), 1)
        for elect in ("weighted", "unweighted")
    )

    assert weighted.item() == pytest.approx(-2.0)
    assert unweighted.item() == pytest.approx(3.0)


def test_frequency_counts_signs():
    """-5 against 1 and 2: magnitudes elect -, signs elect +, whose mean is 1.5."""
    parts = [matrix([[-5.0]]), matrix([[1.0]]), matrix([[2.0]])]

    total, frequency = (
        product(combined("ties", parts, [1.0, 1.0, 1.0], rank=1, density=1.0, majority_sign=vote), 1)
        for vote in ("total", "frequency")
    )

    assert total.item() == pytest.approx(-5.0)
    assert frequency.item() == pytest.approx(1.5)


def test_a_tied_vote_elects_plus():
    found = product(combined("ties", [matrix([[2.0]]), matrix([[-2.0]])], [1.0, 1.0], rank=1, density=1.0), 1)

    assert found.item() == pytest.approx(2.0)


def test_elements_that_tie_at_the_threshold_are_all_kept():
    """A quarter of four elements is one; two are as large."""
    found = product(combined("magnitude_prune", [matrix([[2.0, -2.0], [1.0, 0.5]])], [1.5], rank=2, density=0.25), 2)

    np.testing.assert_allclose(found, [[3.0, -3.0], [0.0, 0.0]], atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weights", [(0.7, 0.4), (0.7, -1.4, 0.3), (-0.5, -0.6)])
@pytest.mark.parametrize("elect", ["weighted", "unweighted"])
@pytest.mark.parametrize("majority_sign", ["total", "frequency"])
def test_ties_is_its_definition(shape, weights, elect, majority_sign):
    parts = [part(*shape, 3, seed) for seed in range(len(weights))]
    options = {"elect": elect, "majority_sign": majority_sign, "scale": 0.8}

    target = combined("ties", parts, weights, rank=FULL, density=0.3, rescale="density", **options)

    expected = disjoint_mean([trimmed(dense(one), 0.3, rescale=True) for one in parts], weights, **options)
    assert target.bound is None
    assert distance(product(target, FULL), expected) < 1e-6


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("density", [0.01, 0.2, 0.99])
@pytest.mark.parametrize("rescale", ["none", "density"])
def test_magnitude_prune_is_its_definition(shape, density, rescale):
    parts, weights = [part(*shape, 3, seed) for seed in (1, 2, 3)], (0.7, -1.4, 0.3)

    target = combined("magnitude_prune", parts, weights, rank=FULL, density=density, rescale=rescale, scale=1.5)

    pruned = [trimmed(dense(one), density, rescale=rescale == "density") for one in parts]
    expected = 1.5 * sum(weight * one for weight, one in zip(weights, pruned, strict=True))
    assert distance(product(target, FULL), expected) < 1e-6


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_a_cut_is_the_best_of_its_rank(rank):
    parts = [part(40, 30, 4, seed) for seed in (1, 2)]

    found = product(combined("ties", parts, (0.6, 0.4), rank=rank), rank)

    expected = disjoint_mean([trimmed(dense(one), 0.2) for one in parts], (0.6, 0.4))
    optimum = np.linalg.norm(expected - best(expected, rank))
    assert np.linalg.norm(expected - found) <= 1.0005 * optimum
