"""What a way to store a weight must offer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    import torch
    from torch import Tensor

    from engine.materialize.place import Stored

    Rounded = Callable[[Tensor, int, torch.dtype], Tensor]
    """The numbers of the rows from the given one on in a dtype that is stored."""


class Reader(Protocol):
    """An open weight, seen as the matrix that `Stored.matrix` says."""

    def rows(self, start: int, stop: int) -> Tensor:
        """Float32 numbers of these rows; overwritten by the next call of the same length."""
        ...


class Writer(Protocol):
    """An open target that takes the rows of a weight in their order."""

    def put(self, start: int, numbers: Tensor) -> Tensor:
        """Store float32 rows from `start` on; gives the numbers as they are stored."""
        ...

    def digests(self) -> dict[str, str]:
        """sha256 of each part's bytes by role, after the last row."""
        ...


@dataclass(frozen=True, slots=True)
class Encoding:
    """One row of the table. `parts(name, dtype, shape)` are the tensors that store a weight, by their role."""

    name: str
    parts: Callable[[str, str, tuple[int, ...]], Mapping[str, tuple[str, str, tuple[int, ...]]]]
    reading: Callable[[Stored], AbstractContextManager[Reader]]
    writing: Callable[[Stored, Rounded], AbstractContextManager[Writer]]
