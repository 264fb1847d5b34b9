"""Whether two stored tensors hold the same numbers, read by blocks."""

from __future__ import annotations

import os
from math import prod
from typing import TYPE_CHECKING

import torch

from engine.format.files.header import BITS, open_regular
from engine.materialize.stored.numbers import fill
from engine.model.memory.tensordata import DTYPES

if TYPE_CHECKING:
    from engine.materialize.stored.place import Place

_STEP = 1 << 20
"""Elements."""


def same_numbers(one: Place, other: Place) -> bool:
    """Whether `one` holds the numbers of `other`, once cast to its dtype."""
    if one.shape != other.shape:
        return False
    if (one.file, one.offset, one.dtype) == (other.file, other.offset, other.dtype):
        return True
    descriptors = [open_regular(place.file) for place in (one, other)]
    try:
        total = prod(one.shape)
        for start in range(0, total, _STEP):
            count = min(_STEP, total - start)
            left, right = (_part(*pair, start, count) for pair in zip(descriptors, (one, other), strict=True))
            if not torch.equal(left.to(right.dtype), right):
                return False
        return True
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _part(descriptor: int, place: Place, start: int, count: int) -> torch.Tensor:
    width = BITS[place.dtype] // 8
    data = torch.empty(count * width, dtype=torch.uint8)
    fill(descriptor, place.file, data, place.offset + start * width)
    return data.view(DTYPES[place.dtype])
