"""What a way to store a weight must offer."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from engine.materialize.stored.files import opened, reading

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    import torch
    from torch import Tensor

    from engine.materialize.stored.place import Stored

    Rounded = Callable[[Tensor, int, torch.dtype], Tensor]
    """The numbers of the rows from the given one on in a dtype that is stored."""


class Reader(Protocol):
    """An open weight, seen as the matrix that `Stored.matrix` says."""

    def rows(self, start: int, stop: int) -> Tensor:
        """Numbers of these rows, float32, or float64 where they are stored so; overwritten by the next call of the same
        length.
        """
        ...


class PackedReader(Reader, Protocol):
    """An open weight whose numbers stand on a grid."""

    def alike(self, start: int, numbers: Tensor) -> int:
        """How many of the rows from `start` on have the code that these rows would get by themselves."""
        ...


class Writer(Protocol):
    """An open target that takes the rows of a weight in their order, a multiple of `Stored.multiple` at a time."""

    def put(self, start: int, numbers: Tensor) -> Tensor:
        """Store rows from `start` on; gives the numbers as they are stored, or as they are before packing."""
        ...

    def digests(self) -> dict[str, str]:
        """sha256 of each part's bytes by role, after the last row, with which packed weights become complete."""
        ...


@dataclass(frozen=True, slots=True)
class Encoding:
    """One row of the table. `packed` opens a weight whose numbers are known only when all of it is written."""

    name: str
    reading: Callable[[Stored], AbstractContextManager[Reader]]
    writing: Callable[[Stored, Rounded], AbstractContextManager[Writer]]
    packed: Callable[[Stored], AbstractContextManager[PackedReader]] | None = None


Opened = TypeVar("Opened", bound=Reader)


def reads(reader: Callable[[int, Stored], Opened]) -> Callable[[Stored], AbstractContextManager[Opened]]:
    """`reader` over the open file that holds a weight's numbers or codes."""

    @contextmanager
    def held(stored: Stored) -> Iterator[Opened]:
        with reading(stored.parts[""].file) as descriptor:
            yield reader(descriptor, stored)

    return held


def writes(
    writer: Callable[[int, Stored, Rounded], Writer],
) -> Callable[[Stored, Rounded], AbstractContextManager[Writer]]:
    """`writer` over the open file that is to hold them."""

    @contextmanager
    def held(stored: Stored, rounded: Rounded) -> Iterator[Writer]:
        with opened(stored.parts[""].file, os.O_WRONLY) as descriptor:
            yield writer(descriptor, stored, rounded)

    return held
