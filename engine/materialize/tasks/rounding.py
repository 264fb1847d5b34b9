"""From float32 or float64 to the dtype that is stored, once: to nearest, or at random between the two neighbours."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class _Narrow:
    """A dtype whose normal numbers are float32's without the last `dropped` bits; below `normal`, steps are equal."""

    dropped: int
    normal: float
    step: float


_NARROW = {
    torch.bfloat16: _Narrow(16, 2.0**-126, 2.0**-133),
    torch.float16: _Narrow(13, 2.0**-14, 2.0**-24),
}
_EXACT = frozenset({torch.float32, torch.float64})


def nearest(numbers: Tensor, dtype: torch.dtype) -> Tensor:
    """Ties to even, as torch casts."""
    return numbers.to(dtype)


def stochastic(numbers: Tensor, dtype: torch.dtype, random: torch.Generator) -> Tensor:
    """One of the two neighbours, each with the probability of how near it is: right on average.

    Numbers that the dtype holds stay. Raises KeyError for a dtype that is not known here. Source: Gupta et al. 2015
    (arXiv 1502.02551).
    """
    if dtype in _EXACT:
        return numbers.to(dtype)
    narrow, numbers = _NARROW[dtype], numbers.float()
    draws = torch.randint(0, 1 << narrow.dropped, numbers.shape, dtype=torch.int32, generator=random)
    # A pattern's magnitude grows with its number on both sides of zero, so adding draws moves away from zero.
    pattern = numbers.contiguous().view(torch.int32)
    rounded = ((pattern + draws) & -(1 << narrow.dropped)).view(torch.float32)
    small = numbers.abs() < narrow.normal
    if small.any():
        steps = torch.floor(numbers / narrow.step + draws / (1 << narrow.dropped)) * narrow.step
        rounded = torch.where(small, steps, rounded)
    return torch.where(torch.isfinite(numbers), rounded, numbers).to(dtype)


def random_of(seed: int, name: str, start: int) -> torch.Generator:
    """What the rows from `start` on of a tensor draw from, whichever worker takes them and when."""
    digest = hashlib.sha256(f"{seed}\0{name}\0{start}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
