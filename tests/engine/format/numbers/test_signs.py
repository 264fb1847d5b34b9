"""Opposite signs of two small matrices, counted by hand."""

import numpy as np
import pytest

from engine.format.numbers.signs import Signs, all_signs, compare_signs
from engine.format.numbers.subspaces import Block, contrast


def block(rows, scaling=1.0):
    B = np.array(rows, float)
    return Block(B, np.eye(B.shape[1]), scaling)


def test_elements_that_are_zero_on_either_side_do_not_count():
    """[[1, -2], [3, 0]] against [[1, 5], [-1, 2]]: three elements compare, two are opposed."""
    found = compare_signs(block([[1, -2], [3, 0]]), block([[1, 5], [-1, 2]]))

    assert (found.opposed, found.both, found.elements) == (2.0, 3.0, 4)
    assert found.conflict == pytest.approx(2 / 3)


def test_a_negative_scaling_turns_the_signs():
    assert compare_signs(block([[1, 2, 3]] * 4), block([[1, 2, 3]] * 4, -0.5)) == Signs(12.0, 12.0, 12)


def test_an_element_that_rounding_alone_explains_is_zero():
    """0.1·3 - 0.3·1 is zero but for the rounding of 0.1 and 0.3."""
    almost = Block(np.array([[0.1, 0.3]]), np.array([[3.0], [-1.0]]), 1.0)

    assert compare_signs(almost, block([[1]])) == Signs(0.0, 0.0, 1)


def test_nothing_is_compared_with_a_side_that_has_no_factors():
    found = compare_signs(block([[1.0]]), Block(np.zeros((1, 0)), np.zeros((0, 1)), 1.0))

    assert (found, found.conflict) == (Signs(0.0, 0.0, 0), None)


def test_a_sample_stands_for_the_whole_matrix():
    """512x512 from 65,536 looked at, all agreeing, beside four elements that all oppose: 4 of 262,148."""
    ones = Block(np.ones((512, 1)), np.ones((1, 512)), 1.0)

    found = all_signs([compare_signs(ones, ones), compare_signs(block([[1.0] * 4]), block([[-1.0] * 4]))])

    assert found == Signs(4.0, 262_148.0, 65_540)


def test_a_contrast_holds_the_signs_and_the_shares():
    """Norms 3 and 1 of diag(3) and diag(-1): shares 3/4 and 1/4, and every element opposed."""
    found = contrast([(block([[3.0]]), block([[-1.0]]))])

    assert found.shares == pytest.approx((0.75, 0.25))
    assert found.signs == Signs(1.0, 1.0, 1)


def test_two_zero_matrices_have_no_shares():
    assert contrast([(block([[0.0]]), block([[0.0]]))]).shares is None
