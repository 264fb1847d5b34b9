"""Two low-rank matrices side by side: hand cases, and the dense float64 definitions."""

import math

import numpy as np
import pytest

from engine.format.numbers.subspaces import Block, Contrast, contrast

E1, E2, E3 = np.eye(3)


def outer(column, row, scaling=1.0):
    """The rank-one block scaling · column · rowᵀ."""
    return Block(np.array(column, float).reshape(-1, 1), np.array(row, float).reshape(1, -1), scaling)


def side_by_side(*blocks):
    return Block(np.hstack([one.B for one in blocks]), np.vstack([one.A for one in blocks]), blocks[0].scaling)


def of(left, right) -> Contrast:
    found = contrast([(left, right)])
    assert found is not None
    return found


def turned(degrees):
    return np.array([math.cos(math.radians(degrees)), math.sin(math.radians(degrees)), 0.0])


def test_a_matrix_and_itself():
    found = of(outer(E1, E2, 3.0), outer(E1, E2, 3.0))

    assert (found.norms, found.distance, found.relative, found.cosine) == ((3.0, 3.0), 0.0, 0.0, 1.0)
    assert (found.columns.ranks, found.columns.overlap, found.columns.angles) == ((1, 1), 1.0, (0.0,))
    assert (found.rows.ranks, found.rows.overlap, found.rows.angles) == ((1, 1), 1.0, (0.0,))


def test_orthogonal_matrices():
    found = of(outer(E1, E1), outer(E2, E2))

    assert found.distance == pytest.approx(math.sqrt(2), rel=1e-15)
    assert (found.cosine, found.columns.overlap, found.rows.overlap) == (0.0, 0.0, 0.0)
    assert found.columns.angles == (90.0,)


def test_the_same_columns_read_from_orthogonal_rows():
    """Orthogonal as vectors, though their column spaces are one: only the angles of each side tell."""
    found = of(outer(E1, E1), outer(E1, E2))

    assert (found.cosine, found.columns.overlap, found.rows.overlap) == (0.0, 1.0, 0.0)


def test_columns_turned_by_thirty_degrees():
    found = of(outer(E1, E1), outer(turned(30), E1))

    assert found.columns.angles == pytest.approx((30.0,), abs=1e-13)
    assert found.columns.overlap == pytest.approx(0.75, abs=1e-15)
    assert found.cosine == pytest.approx(math.sqrt(3) / 2, abs=1e-15)
    assert found.distance == pytest.approx(2 * math.sin(math.radians(15)), abs=1e-15)
    assert found.rows.angles == (0.0,)


@pytest.mark.parametrize("degrees", [1e-9, 1e-4, 44.9, 45.1, 89.9999])
def test_small_and_large_angles_are_exact(degrees):
    """arccos of a rounded cosine cannot tell 1e-9 degrees from zero, arcsin not 89.9999 from 90."""
    found = of(outer(E1, E1), outer(turned(degrees), E1))

    assert found.columns.angles[0] == pytest.approx(degrees, rel=1e-9)


def test_twice_as_much_of_the_same():
    found = of(outer(E1, E1), outer(E1, E1, 2.0))

    assert (found.norms, found.distance, found.relative) == ((1.0, 2.0), 1.0, 0.5)
    assert (found.cosine, found.columns.overlap) == (1.0, 1.0)


def test_the_opposite_is_two_norms_away():
    found = of(outer(E1, E1, 2.0), outer(E1, E1, -2.0))

    assert (found.relative, found.cosine) == (2.0, -1.0)


def test_an_untrained_matrix_has_no_space_and_no_direction():
    """B is zero as PEFT starts it."""
    found = of(Block(np.zeros((3, 2)), np.ones((2, 3)), 2.0), outer(E1, E1, 5.0))

    assert (found.norms, found.relative, found.cosine) == ((0.0, 5.0), 1.0, None)
    assert (found.columns.ranks, found.columns.overlap, found.columns.angles) == ((0, 1), None, ())


def test_two_zeros_are_equal():
    nothing = Block(np.zeros((3, 0)), np.zeros((0, 3)), 1.0)

    assert (of(nothing, nothing).relative, of(nothing, nothing).cosine) == (0.0, None)


def test_a_space_inside_a_larger_one():
    found = of(outer(E1, E1), side_by_side(outer(E1, E1), outer(E2, E2)))

    assert (found.columns.ranks, found.columns.overlap, found.columns.angles) == ((1, 2), 1.0, (0.0,))
    assert found.distance == pytest.approx(1.0, abs=1e-15)


def test_two_of_three_directions_shared():
    """span(e1, e2) and span(e2, e3): one angle of 0, one of 90, half of the squared cosines."""
    found = of(side_by_side(outer(E1, E1), outer(E2, E2)), side_by_side(outer(E2, E2), outer(E3, E3)))

    assert found.columns.angles == pytest.approx((0.0, 90.0), abs=1e-13)
    assert found.columns.overlap == pytest.approx(0.5, abs=1e-15)


def test_the_rank_is_that_of_the_product_not_of_the_factors():
    """Both columns of B are e1, so that the product has rank one."""
    found = of(side_by_side(outer(E1, E1), outer(E1, E2)), outer(E1, E1))

    assert found.columns.ranks == (1, 1)


def test_other_factors_of_the_same_product_are_no_difference():
    """B·M and M⁻¹·A: every trained pair can be written in many ways."""
    draw = np.random.default_rng(5).standard_normal
    B, A, M = draw((40, 4)), draw((4, 30)), draw((4, 4))
    found = of(Block(B, A, 0.5), Block(B @ M, np.linalg.solve(M, A), 0.5))

    assert found.relative < 1e-13
    assert found.columns.overlap == pytest.approx(1.0, abs=1e-13)
    assert max(*found.columns.angles, *found.rows.angles) < 1e-10


def dense(block):
    return block.scaling * block.B @ block.A


def angles_of(one, other):
    """Principal angles in degrees by their definition: orthonormal bases by SVD, arccos of the singular values."""
    bases = []
    for matrix in (one, other):
        U, S, _ = np.linalg.svd(matrix)
        bases.append(U[:, : int((1e-10 * S[0] < S).sum())])
    cosines = np.linalg.svd(bases[0].T @ bases[1], compute_uv=False)
    return np.degrees(np.arccos(np.clip(cosines, -1, 1)))


@pytest.mark.parametrize(
    ("out", "inputs", "ranks"), [(12, 9, (3, 3)), (12, 9, (2, 5)), (4, 30, (3, 4)), (30, 3, (1, 3)), (5, 5, (8, 6))]
)
def test_random_factors_agree_with_the_dense_matrices(out, inputs, ranks):
    draw = np.random.default_rng(out * inputs).standard_normal
    left, right = (Block(draw((out, r)), draw((r, inputs)), s) for r, s in zip(ranks, (0.5, 2.0), strict=True))
    one, other = dense(left), dense(right)
    found = of(left, right)

    assert found.norms == pytest.approx((np.linalg.norm(one), np.linalg.norm(other)), rel=1e-13)
    assert found.distance == pytest.approx(np.linalg.norm(one - other), rel=1e-13)
    assert found.cosine == pytest.approx((one * other).sum() / np.linalg.norm(one) / np.linalg.norm(other), rel=1e-12)
    columns, rows = angles_of(one, other), angles_of(one.T, other.T)
    assert found.columns.angles == pytest.approx(columns, abs=1e-5)
    assert found.rows.angles == pytest.approx(rows, abs=1e-5)
    assert found.columns.overlap == pytest.approx(np.mean(np.cos(np.radians(columns)) ** 2), abs=1e-10)


def test_blocks_are_the_diagonal_of_one_matrix():
    """Two groups of a convolution: the block-diagonal matrix itself says what is expected."""
    draw = np.random.default_rng(8).standard_normal
    pairs = [tuple(Block(draw((6, 2)), draw((2, 5)), 1.5) for _ in "lr") for _ in "gh"]
    found = contrast(pairs)
    one, other = (
        np.block([[dense(p[side]), np.zeros((6, 5))], [np.zeros((6, 5)), dense(q[side])]])
        for side in (0, 1)
        for p, q in [pairs]
    )

    assert found is not None
    assert found.norms == pytest.approx((np.linalg.norm(one), np.linalg.norm(other)), rel=1e-13)
    assert found.distance == pytest.approx(np.linalg.norm(one - other), rel=1e-13)
    assert found.columns.ranks == (4, 4)
    assert found.columns.angles == pytest.approx(sorted(angles_of(one, other)), abs=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e200])
def test_values_that_cannot_be_compared_give_nothing(value):
    """1e200 is finite, its products are not."""
    assert contrast([(outer([value, 0, 0], [value, 0, 0]), outer(E1, E1))]) is None
