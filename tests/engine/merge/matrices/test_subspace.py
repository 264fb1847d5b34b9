"""The joint subspace against dense numpy in float64."""

import numpy as np
import pytest
import torch

from engine.merge import METHODS, Part, Parts, Site
from engine.merge.matrices.subspace import span
from tests.engine.merge.factories import best, distance, normal


def part(seed, *, rows=40, columns=30, rank=4, scaling=2.25, weight=0.7):
    """A parent's factors and its weight."""
    return Part(normal(seed, rows, rank), normal(seed + 50, rank, columns), scaling), weight


def dense(parts):
    return sum(weight * p.scaling * (p.B.double() @ p.A.double()).numpy() for p, weight in parts)


def target(parts, method="svd", *, rank=8):
    return METHODS[method].combine(Parts([p for p, _ in parts]), Site(weights=[w for _, w in parts], rank=rank))


def svd(parts, *, rank):
    return target(parts).factors(rank)


def product(factors):
    B, A = factors
    return (B @ A).numpy()


def test_hand_example():
    """3·(2·[1,0]ᵀ[1,0]) + 1·(1·[0,1]ᵀ[0,2]) has singular values 6 and 2; rank 1 keeps the 6."""
    parts = [
        (Part(torch.tensor([[1.0], [0.0]]), torch.tensor([[1.0, 0.0]]), 2.0), 3.0),
        (Part(torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0, 2.0]]), 1.0), 1.0),
    ]

    B, A = svd(parts, rank=1)

    np.testing.assert_allclose(target(parts).S.numpy(), [6.0, 2.0], rtol=1e-15)
    np.testing.assert_allclose(B.numpy(), [[6**0.5], [0.0]], atol=1e-15)
    np.testing.assert_allclose(A.numpy(), [[6**0.5, 0.0]], atol=1e-15)


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_is_the_best_approximation(rank):
    """No rank-k matrix is nearer: the distance equals numpy's dense truncation, for each k."""
    parts = [part(1), part(2, scaling=0.75, weight=-0.4)]

    assert distance(product(svd(parts, rank=rank)), best(dense(parts), rank)) < 1e-12


def test_spectrum_is_the_dense_one():
    parts = [part(1), part(2, rank=7, weight=-1.3), part(3, rank=2)]

    expected = np.linalg.svd(dense(parts), compute_uv=False)[:13]

    np.testing.assert_allclose(target(parts).S.numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize(("rows", "columns"), [(5, 30), (30, 5), (6, 7), (8, 8), (1, 9), (9, 1)])
def test_more_ranks_than_rows_or_columns(rows, columns):
    parts = [part(seed, rows=rows, columns=columns) for seed in (1, 2)]
    small = min(rows, columns)

    B, A = svd(parts, rank=8)

    assert (B.shape, A.shape) == ((rows, 8), (8, columns))
    assert distance((B @ A).numpy(), dense(parts)) < 1e-12
    assert not B[:, small:].any()
    assert not A[small:].any()


def test_difference_of_equals_is_exactly_zero():
    one, weight = part(1)
    parts = [(one, weight), (one, -weight)]

    assert target(parts).S.tolist() == [0.0] * 8
    assert all(not factor.any() for factor in svd(parts, rank=4))


def test_duplicated_parent_has_its_own_rank():
    """0.5·D + 0.5·D = D: four singular values, then exact zeros."""
    one = part(1, weight=0.5)

    found = target([one, one])

    assert (found.S[:4] > 0.1).all()
    assert found.S[4:].tolist() == [0.0] * 4
    assert distance(product(svd([one, one], rank=4)), dense([one, one])) < 1e-14


@pytest.mark.parametrize("where", ["A", "B"])
def test_zero_factor(where):
    one, (other, _) = part(1), part(2)
    factors = (torch.zeros_like(t) if n == where else t for n, t in (("B", other.B), ("A", other.A)))
    zero = Part(*factors, 2.0), 1.0

    assert distance(product(svd([one, zero], rank=8)), dense([one])) < 1e-13
    assert not any(factor.any() for factor in svd([zero], rank=4))


@pytest.mark.parametrize("weights", [(0.0, 1.0), (1.0, 0.0), (0.0, 0.0), (-2.0, 3.5), (1e-6, 1e6)])
def test_any_weights(weights):
    parts = [part(seed, weight=weight) for seed, weight in zip((1, 2), weights, strict=True)]

    assert distance(product(svd(parts, rank=8)), dense(parts)) < 1e-12


def test_order_of_parents_does_not_matter():
    parts = [part(1, rank=2), part(2, rank=5, weight=-0.4), part(3, weight=2.0)]

    forward, backward = svd(parts, rank=4), svd(parts[::-1], rank=4)

    assert distance(product(backward), product(forward)) < 1e-13
    assert distance(backward[0].numpy(), forward[0].numpy()) < 1e-10


def test_factors_are_balanced_and_signed():
    """BᵀB = AAᵀ = diag(S), and the largest entry of each column of B is positive."""
    parts = [part(1), part(2)]
    B, A = svd(parts, rank=5)
    S = np.diag(np.linalg.svd(dense(parts), compute_uv=False)[:5])

    np.testing.assert_allclose((B.T @ B).numpy(), S, atol=1e-12)
    np.testing.assert_allclose((A @ A.T).numpy(), S, atol=1e-12)
    assert (B.gather(0, B.abs().argmax(0, keepdim=True)) > 0).all()


def test_stack_is_the_parents_themselves():
    """PEFT's own layout for cat: B side by side untouched, w·s in A."""
    parts = [part(1, scaling=2.0, weight=0.5), part(2, rank=3, scaling=0.75, weight=-2.0)]

    B, A = target(parts, "cat").factors(7)

    (one, _), (other, _) = parts
    assert torch.equal(B, torch.cat([one.B, other.B], 1).double())
    assert torch.equal(A, torch.cat([one.A.double(), -1.5 * other.A.double()], 0))


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, 6, 9, 12])
def test_bases_stay_orthonormal(exponent):
    """From independent to all but equal columns, by either route: QᵀQ = I and Q·R = X."""
    X = normal(1, 200, 6).double()
    X[:, 3] = X[:, 2] + 10.0**-exponent * X[:, 3]

    basis = span(X)
    Q = basis.lift(torch.eye(6, dtype=torch.float64))

    assert float((Q.T @ Q - torch.eye(6)).norm()) < 1e-10
    assert distance((Q @ basis.triangle).numpy(), X.numpy()) < 1e-13


def test_both_routes_are_taken():
    X = normal(1, 200, 6).double()

    assert span(X).solver is not None
    assert span(X, precise=True).solver is None
    assert span(torch.cat([X, X], 1)).solver is None


@pytest.mark.parametrize("columns", [6, 9])
def test_a_stack_as_wide_as_high_is_its_own_core(columns):
    """Q is the identity; nothing is factored."""
    X = normal(1, 6, columns).double()

    basis = span(X)

    assert basis.carrier is None
    assert torch.equal(basis.triangle, X)


def test_columns_of_very_different_length_need_no_reflections():
    assert span(normal(1, 200, 4).double() * torch.tensor([1e-12, 1.0, 1e8, 1e-3])).solver is not None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_raise(value):
    broken, weight = part(1)
    broken.B[3, 1] = value

    with pytest.raises(FloatingPointError):
        target([(broken, weight), part(2)])
