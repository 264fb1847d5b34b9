"""One rounding: to nearest as torch casts, or at random and right on average."""

import pytest
import torch

from engine.materialize.tasks.rounding import nearest, random_of, stochastic

DRAWS = 100_000


@pytest.mark.parametrize(
    ("dtype", "low", "high", "number", "share"),
    [
        # bfloat16 has 8 significant bits: between 1 and 2 its numbers are 1/128 apart.
        (torch.bfloat16, 1.0, 1.0078125, 1.001953125, 0.25),
        (torch.bfloat16, -1.0078125, -1.0, -1.001953125, 0.75),
        # float16 has 11: 1/1024 apart; below 2^-14 they are 2^-24 apart.
        (torch.float16, 1.0, 1.0009765625, 1.000732421875, 0.75),
        (torch.float16, 2.0**-24, 2.0**-23, 1.25 * 2.0**-24, 0.25),
        (torch.float16, -(2.0**-24), 0.0, -0.25 * 2.0**-24, 0.75),
        # across a power of two
        (torch.bfloat16, 1.9921875, 2.0, 1.998046875, 0.75),
    ],
)
def test_the_upper_neighbour_comes_as_often_as_the_number_is_near_it(dtype, low, high, number, share):
    found = stochastic(torch.full((DRAWS,), number), dtype, torch.Generator().manual_seed(5)).double()
    assert set(found.unique().tolist()) == {low, high}
    # Five standard deviations of a binomial share.
    assert abs(float((found == high).double().mean()) - share) < 5 * (share * (1 - share) / DRAWS) ** 0.5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_numbers_that_the_dtype_holds_stay(dtype):
    held = torch.tensor([0.0, -0.0, 1.5, -3.0, 2.0**-14, 2.0**-24, float("inf"), float("-inf")]).to(dtype)
    assert torch.equal(stochastic(held.float(), dtype, torch.Generator()), held)
    assert torch.isnan(stochastic(torch.tensor([float("nan")]), dtype, torch.Generator())).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_dtype_that_holds_every_float32_draws_nothing(dtype):
    numbers = torch.randn(100)
    assert torch.equal(stochastic(numbers, dtype, torch.Generator()), numbers.to(dtype))


def test_a_dtype_that_is_not_known_is_no_silent_cast():
    with pytest.raises(KeyError):
        stochastic(torch.ones(2), torch.float8_e4m3fn, torch.Generator())


def test_beyond_the_largest_number_is_infinite_as_in_a_cast():
    assert torch.isinf(stochastic(torch.tensor([1e6]), torch.float16, torch.Generator())).all()


def test_nearest_takes_the_even_one_of_two_equally_near():
    # 1 + 1/256 lies halfway between 1 and 1 + 1/128; 1 + 3/256 between 1 + 1/128 and 1 + 1/64.
    assert nearest(torch.tensor([1.00390625, 1.01171875]), torch.bfloat16).tolist() == [1.0, 1.015625]


def test_draws_follow_seed_tensor_and_row_alone():
    def draws(*key):
        return torch.randint(0, 1 << 30, (4,), generator=random_of(*key)).tolist()

    assert draws(1, "w", 0) == draws(1, "w", 0)
    assert len({tuple(draws(*key)) for key in [(1, "w", 0), (2, "w", 0), (1, "v", 0), (1, "w", 64)]}) == 4
