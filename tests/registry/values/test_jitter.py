"""The law of the pauses between tries."""

from __future__ import annotations

import random

import pytest

from registry.values import jitter

MANY = 4000


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    random.seed(20261122)


def pauses(turn: int, *, longest: float = 1000.0) -> list[float]:
    return [jitter.pause(turn, first=0.5, longest=longest) for _ in range(MANY)]


@pytest.mark.parametrize(("turn", "most"), [(0, 0.5), (1, 1.0), (2, 2.0), (7, 64.0)])
def test_pauses_fill_all_from_nothing_to_a_bound_that_doubles(turn: int, most: float):
    """The mean of a uniform law is half its bound, and its ends are met."""
    found = pauses(turn)

    assert 0 <= min(found) < 0.01 * most
    assert 0.99 * most < max(found) <= most
    assert sum(found) / MANY == pytest.approx(most / 2, rel=0.05)


def test_no_pause_is_longer_than_the_longest():
    found = pauses(40, longest=3.0)

    assert 2.9 < max(found) <= 3.0


def test_two_who_wait_the_same_turn_wait_differently():
    assert len(set(pauses(3))) > MANY / 2
