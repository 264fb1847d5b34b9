"""DARE's draws: the published generator, and what they depend on."""

import pytest

from engine.merge.masks import draws

KNOWN_ANSWERS = [
    (0, 0, "16554d9eca36314c db20fe9d672d0fdc d7e772cee186176b 7e68b68aec7ba23b"),
    (2**256 - 1, 2**128 - 1, "87b092c3013fe90b 438c3c67be8d0224 9cc7d7c69cd777b6 a09caebf594f0ba0"),
]
"""Counter, key and output of philox4x64-10 in Random123's kat_vectors."""


def words(draw):
    return [f"{high:08x}{low:08x}" for low, high in draw.reshape(-1, 2)]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_the_generator_is_the_published_one(counter, key, expected):
    assert words(draws(key, 8 * counter, 8)) == expected.split()
