"""Numbers of bytes and back: exact to read, rounded once to write."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.convert.rewrite.numbers import raw_type, to_numbers, to_stored

TORCH = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}


@pytest.mark.parametrize("dtype", TORCH)
def test_every_pattern_of_bits_is_read_as_torch_reads_it(dtype):
    bits = np.arange(2**16, dtype=np.uint16)
    width = np.dtype(raw_type(dtype)).itemsize
    stored = bits if width == 2 else np.random.default_rng(0).bytes(2**16 * width)
    stored = np.frombuffer(stored, raw_type(dtype))
    expected = torch.frombuffer(bytearray(stored.tobytes()), dtype=TORCH[dtype]).double().numpy()

    assert np.array_equal(to_numbers(stored, dtype), expected, equal_nan=True)


@pytest.mark.parametrize("dtype", TORCH)
def test_what_was_read_is_written_back(dtype):
    stored = np.random.default_rng(1).standard_normal(999).astype("<f4")
    numbers = to_numbers(to_stored(stored.astype(np.float64), dtype), dtype)

    assert np.array_equal(to_numbers(to_stored(numbers, dtype), dtype), numbers)


# the middle between 1 and the next bfloat16, 1 + 2^-7, is 1 + 2^-8
BF16 = {
    "a tie goes to the even neighbour below": (1 + 2**-8, 1.0),
    "a tie goes to the even neighbour above": (1 + 3 * 2**-8, 1 + 2**-6),
    "a little above a tie, less than float32 can tell": (1 + 2**-8 + 2**-40, 1 + 2**-7),
    "a little below a tie, less than float32 can tell": (1 + 3 * 2**-8 - 2**-40, 1 + 2**-7),
    "negative": (-(1 + 2**-8 + 2**-40), -(1 + 2**-7)),
    "the largest stays": (float(2**127 * (2 - 2**-7)), float(2**127 * (2 - 2**-7))),
    "too large": (float(2**127 * (2 - 2**-9)), float("inf")),
    "infinite": (float("-inf"), float("-inf")),
    "zero": (-0.0, -0.0),
    "subnormal": (3 * 2**-133, 3 * 2**-133),
    "too small": (2**-140, 0.0),
}


@pytest.mark.parametrize("case", BF16)
def test_bfloat16_is_rounded_once(case):
    exact, expected = BF16[case]

    found = to_numbers(to_stored(np.array([exact]), "BF16"), "BF16")[0]

    assert found == expected
    assert np.signbit(found) == np.signbit(expected)


def test_nan_stays_nan():
    assert np.isnan(to_numbers(to_stored(np.array([np.nan]), "BF16"), "BF16")).all()


def test_no_bfloat16_is_nearer_than_the_one_chosen():
    """Against both neighbours, over draws of all sizes."""
    exact = np.random.default_rng(2).standard_normal(20_000) * 2.0 ** np.random.default_rng(3).integers(
        -100, 100, 20_000
    )
    stored = to_stored(exact, "BF16")

    error = np.abs(to_numbers(stored, "BF16") - exact)
    for step in (-1, 1):
        beside = to_numbers((stored.astype(np.int32) + step).astype("<u2"), "BF16")
        assert (np.abs(beside - exact) >= error).all()
