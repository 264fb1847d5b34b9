"""Intended against realised change, held to float64 arithmetic done by hand here."""

from math import sqrt

import pytest
import torch

from engine.materialize.tasks.sums import NOTHING, Sums, measured


def told(W, D, dtype):
    total = W + D
    return measured(W.clone(), D, total, total.to(dtype))


def test_the_sums_are_those_of_float64():
    random = torch.Generator().manual_seed(0)
    W, D = torch.randn(64, 96, generator=random), torch.randn(64, 96, generator=random) * 0.01
    found = told(W, D, torch.bfloat16)
    realised = (W + D).bfloat16().double() - W.double()
    intended = D.double()
    error = realised - intended
    assert found.intended == pytest.approx(float((intended**2).sum()), rel=1e-5)
    assert found.cosine == pytest.approx(
        float((realised * intended).sum() / realised.norm() / intended.norm()), rel=1e-5
    )
    assert found.relative_error == pytest.approx(float(error.norm() / intended.norm()), rel=1e-4)
    assert found.kept_share == pytest.approx(float((realised * intended).sum() / (intended**2).sum()), rel=1e-4)
    assert found.elements == 6144


def test_swallowed_are_elements_that_should_move_and_do_not():
    # At 1, bfloat16 keeps steps of 1/128: of these four, 2^-10 and 2^-9 round back, 0 should not move at all.
    W, D = torch.ones(1, 4), torch.tensor([[2.0**-10, 2.0**-9, 0.0, 2.0**-6]])
    found = told(W, D, torch.bfloat16)
    assert (found.moved, found.swallowed, found.elements) == (3, 2, 4)
    assert found.swallowed_share == pytest.approx(2 / 3)


def test_a_narrower_dtype_swallows_what_its_own_rounding_of_w_hides():
    """W is no bfloat16 itself: not moved is what rounding W alone gives."""
    W, D = torch.tensor([[1.001, 1.001]]), torch.tensor([[0.0001, 0.01]])
    found = told(W, D, torch.bfloat16)
    assert (found.moved, found.swallowed) == (2, 1)


def test_nothing_lost_is_a_cosine_of_one_and_no_error():
    found = told(torch.zeros(2, 2), torch.ones(2, 2), torch.float32)
    assert (found.cosine, found.relative_error, found.kept_share) == (1.0, 0.0, 1.0)


def test_everything_swallowed_keeps_nothing():
    found = told(torch.ones(1, 2), torch.full((1, 2), 2.0**-12), torch.bfloat16)
    assert (found.cosine, found.relative_error, found.kept_share, found.swallowed_share) == (0.0, 1.0, 0.0, 1.0)


def test_no_change_is_no_loss():
    assert (NOTHING.cosine, NOTHING.relative_error, NOTHING.swallowed_share, NOTHING.kept_share) == (1.0, 0.0, 0.0, 1.0)


def test_blocks_add_up():
    one, two = Sums(1.0, 0.25, -0.5, 3, 1, 4), Sums(3.0, 0.75, 0.5, 5, 0, 6)
    assert one + two == Sums(4.0, 1.0, 0.0, 8, 1, 10)
    assert (one + two).relative_error == sqrt(1 / 4)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_number_that_is_none_shows_in_the_sums(bad):
    D = torch.zeros(1, 3)
    D[0, 1] = bad
    assert not told(torch.ones(1, 3), D, torch.float32).finite


def test_a_sum_beyond_float16_shows_in_the_sums():
    assert not told(torch.full((1, 2), 60000.0), torch.full((1, 2), 9000.0), torch.float16).finite
