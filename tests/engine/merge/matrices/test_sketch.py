"""The sketch against numpy's dense SVD in float64."""

import math

import numpy as np
import pytest
import torch

from engine.merge.matrices.sketch import sketch, spectral_norm
from tests.engine.merge.elementwise import dense, disjoint_mean, part, trimmed


def random(rows, columns, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def steep(rows, columns, decay, seed=0):
    """Singular values 1, decay, decay², …"""
    size = min(rows, columns)
    U, V = (torch.linalg.qr(random(side, size, seed + side)).Q for side in (rows, columns))
    return (U * decay ** torch.arange(size)) @ V.T


def ties_of(rows, columns, parents, rank):
    parts = [part(rows, columns, rank, seed) for seed in range(parents)]
    weights = [0.6, 0.4, 0.5, -0.3][:parents]
    return torch.from_numpy(disjoint_mean([trimmed(dense(one), 0.2) for one in parts], weights)).float()


def errors(matrix, rank, target):
    """Ours and the best, absolute."""
    B, A = target.factors(rank)
    exact = matrix.double().numpy()
    S = np.linalg.svd(exact, compute_uv=False)
    return np.linalg.norm(exact - (B @ A).numpy()), math.sqrt(float((S[rank:] ** 2).sum()))


MATRICES = {
    "noise": lambda: random(120, 90),
    "wide noise": lambda: random(80, 200),
    "slow": lambda: steep(110, 100, 0.97),
    "fast": lambda: steep(110, 100, 0.7),
    "all alike": lambda: torch.linalg.qr(random(100, 100)).Q,
    "tiny": lambda: random(120, 90) * 1e-15,
    "huge": lambda: random(120, 90) * 1e15,
}


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("rank", [1, 4, 16])
@pytest.mark.parametrize("known", [0, 30])
def test_error_is_within_half_a_percent_of_the_best_and_within_the_bound(name, rank, known):
    matrix = MATRICES[name]()

    target = sketch(matrix.clone(), rank, seed=1, steep=known)

    ours, best = errors(matrix, rank, target)
    assert ours <= 1.005 * best + 2e-6 * float(matrix.norm())
    if target.bound is not None:
        assert 1 <= target.bound < math.inf
        assert ours <= target.bound * best * 1.0001
    assert target.energy == pytest.approx(float(matrix.double().square().sum()), rel=1e-5)


@pytest.mark.parametrize(("parents", "rank"), [(2, 4), (4, 4), (3, 8)])
def test_what_ties_leaves_is_cut_as_the_best_would(parents, rank):
    matrix = ties_of(96, 88, parents, rank)
    for k in (4, 8):
        for seed in range(4):
            target = sketch(matrix.clone(), k, seed=seed, steep=parents * rank)

            ours, best = errors(matrix, k, target)
            assert ours <= 1.0005 * best
            assert target.bound is not None
            assert ours <= target.bound * best
            assert target.bound < 1.25


def test_the_report_of_a_sketch_is_the_error_it_made():
    """‖T‖² less what is kept, against the product itself."""
    matrix = random(120, 90)
    target = sketch(matrix.clone(), 6, seed=3)

    ours, _ = errors(matrix, 6, target)

    assert math.sqrt(target.energy - float(target.S[:6].square().sum())) == pytest.approx(ours, rel=1e-5)


def test_low_rank_is_exact_and_has_no_bound():
    matrix = random(120, 5) @ random(5, 90, 1)

    target = sketch(matrix.clone(), 8, seed=1)

    ours, _ = errors(matrix, 8, target)
    assert target.bound is None
    assert ours < 1e-5 * float(matrix.norm())
    assert [bool(value) for value in target.S[:8]] == [True] * 5 + [False] * 3


def test_a_rank_near_the_smaller_side_takes_everything():
    matrix = random(30, 40)

    target = sketch(matrix.clone(), 28, seed=1)

    assert target.bound is None
    np.testing.assert_allclose(target.S, np.linalg.svd(matrix.double().numpy(), compute_uv=False), rtol=1e-6)


@pytest.mark.parametrize("shape", [(6, 4), (120, 90)])
def test_zeros_are_zeros(shape):
    target = sketch(torch.zeros(shape), 3, seed=1)

    B, A = target.factors(3)
    assert (target.energy, target.bound) == (0.0, None)
    assert (B.shape, A.shape) == ((shape[0], 3), (3, shape[1]))
    assert not (B @ A).any()


def test_the_seed_decides():
    one, again, other = (sketch(random(120, 90), 4, seed=seed) for seed in (5, 5, 6))

    assert torch.equal(one.U, again.U)
    assert torch.equal(one.S, again.S)
    assert not torch.equal(one.U, other.U)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_no_matrix(value):
    matrix = random(60, 50)
    matrix[3, 4] = value
    with pytest.raises(FloatingPointError):
        sketch(matrix, 2, seed=1)


@pytest.mark.parametrize("factor", [2e38, 1e-30])
def test_the_ends_of_float32s_range_are_reached(factor):
    """One element of 1 times `factor`, and a thousandth of it elsewhere."""
    matrix = 1e-3 * random(60, 50)
    matrix[3, 4] = 1.0
    matrix *= factor

    assert float(sketch(matrix, 2, seed=1).S[0]) == pytest.approx(factor, rel=1e-3)


@pytest.mark.parametrize("name", MATRICES)
def test_the_norm_is_estimated_from_below_and_within_a_tenth(name):
    matrix = MATRICES[name]()
    exact = float(np.linalg.norm(matrix.double().numpy(), 2))

    for seed in range(3):
        assert 0.9 * exact <= spectral_norm(matrix, seed=seed) <= exact * 1.0001
