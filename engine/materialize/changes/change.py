"""What every change must offer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    Weight = Callable[[int, int], Tensor]
    """W's own rows from the first number up to the second: (rows, columns) float32 or, where they are stored
    so, float64; overwritten by the next call."""
    Rows = Callable[[int, int, Tensor], Tensor]
    """Δ of the rows from the first number up to the second, given W with all earlier changes in it: (rows, columns)
    float32 or W's dtype, for the caller."""


class Change(Protocol):
    """A frozen value: what one adapter does to one stored weight, seen as the matrix that `Stored.matrix` says.

    `opened(shape, weight)` reads the factors and gives the function of rows; `weight(start, stop)` reads W's own rows,
    for changes that depend on all of W. Factors are float32.
    """

    def opened(self, shape: tuple[int, ...], weight: Weight, /) -> Rows: ...
