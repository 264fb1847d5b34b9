"""What a safetensors header says: frozen values, no I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a file: `dtype` as safetensors spells it (`F32`, `BF16`, …), byte range relative to the data."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.end - self.start

    @property
    def count(self) -> int:
        """Number of elements."""
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class Header:
    """A whole header: tensors in file order of their bytes; `data_offset` is where the data begins in the file."""

    tensors: Mapping[str, TensorInfo]
    data_offset: int
    file_size: int
    metadata: Mapping[str, str] = field(default_factory=dict)
