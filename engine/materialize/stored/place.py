"""Where a tensor's bytes lie, and what encodes a weight there: plain values that travel as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd, prod
from typing import TYPE_CHECKING

from engine.format.files.header import BITS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from engine.format.files.tensors import Header, TensorInfo

PLAIN = "plain"
BESIDE = frozenset({"SCB", "weight_format"})
"""Roles of 8 bits: named beside the weight, not below it."""


@dataclass(frozen=True, slots=True)
class Place:
    """A tensor's bytes: `offset` counts from the start of `file`, `dtype` is safetensors' name."""

    file: Path
    offset: int
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return prod(self.shape) * BITS[self.dtype] // 8

    def rows(self, first: int, count: int) -> Place:
        """Where `count` entries of the first dimension lie, from `first` on."""
        line = self.size // max(self.shape[0], 1)
        return Place(self.file, self.offset + first * line, self.dtype, (count, *self.shape[1:]))


def placed(file: Path, header: Header, info: TensorInfo) -> Place:
    """Where the header says that a tensor of `file` lies."""
    return Place(file, header.data_offset + info.start, info.dtype, info.shape)


@dataclass(frozen=True, slots=True)
class Stored:
    """A weight of `shape` as files hold it: the places of the tensors that `encoding` makes of it, by their role.

    A plain weight has one part, under the empty role. Work goes through it as a matrix whose rows are the first `fold`
    dimensions: 1, or 2 for a stack of experts, so that no block is a whole expert.

    Of a packed weight, `dtype` is what its numbers were before (empty for a plain one), and 4 bits have one scale for
    every `blocksize` numbers. Packed weights are (out, in), also where the model's own are (in, out).
    """

    encoding: str
    shape: tuple[int, ...]
    parts: Mapping[str, Place]
    fold: int = 1
    dtype: str = ""
    blocksize: int = 0

    @property
    def matrix(self) -> tuple[int, int]:
        """(rows, columns)."""
        return prod(self.shape[: self.fold]), prod(self.shape[self.fold :])

    @property
    def multiple(self) -> int:
        """Rows that together have whole blocks of scales."""
        return self.blocksize // gcd(self.matrix[1], self.blocksize) if self.blocksize else 1

    @property
    def numbers(self) -> str:
        """Safetensors' name of the dtype of its numbers, as a model has them."""
        return self.dtype or self.parts[""].dtype

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return sum(part.size for part in self.parts.values())


def part_name(weight: str, role: str) -> str:
    """The tensor that holds a part of the weight of that name."""
    if role in BESIDE:
        return weight.removesuffix("weight") + role
    return f"{weight}.{role}" if role else weight


def plain(place: Place) -> Stored:
    """A weight whose bytes are its numbers."""
    return Stored(PLAIN, place.shape, {"": place})
