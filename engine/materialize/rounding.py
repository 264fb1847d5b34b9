"""From float32 to the dtype that is stored, once: to nearest, or at random between the two neighbours."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

_DROPPED = {torch.bfloat16: 16}
"""Bits of a float32 behind the last that the dtype keeps; the exponent's range is the same."""


def nearest(numbers: Tensor, dtype: torch.dtype) -> Tensor:
    """Ties to even, as torch casts."""
    return numbers.to(dtype)


def stochastic(numbers: Tensor, dtype: torch.dtype, random: torch.Generator) -> Tensor:
    """Up with the probability of how far the number lies above the lower neighbour: right on average.

    Source: Gupta et al. 2015 (arXiv 1502.02551).
    """
    bits = _DROPPED[dtype]
    # In two's complement of the pattern, adding to the magnitude moves away from zero on both sides alike.
    pattern = numbers.contiguous().view(torch.int32)
    noise = torch.randint(0, 1 << bits, pattern.shape, dtype=torch.int32, generator=random)
    rounded = ((pattern + noise) & -(1 << bits)).view(torch.float32)
    return torch.where(torch.isfinite(rounded), rounded, numbers).to(dtype)


def random_of(seed: int, name: str, start: int) -> torch.Generator:
    """What the rows from `start` on of a tensor draw from, whichever worker takes them and when."""
    digest = hashlib.sha256(f"{seed}\0{name}\0{start}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
