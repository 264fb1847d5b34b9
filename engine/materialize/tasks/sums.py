"""Intended against realised ΔW: sums over the elements of a weight, from the numbers that were written."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True, slots=True)
class Sums:
    """D is the change intended, E what rounding added to it: the stored weight is W + D + E.

    `intended` = Σ D², `error` = Σ E², `cross` = Σ D·E; `moved` elements have D ≠ 0, of which `swallowed` are stored as
    if D were 0.
    """

    intended: float = 0.0
    error: float = 0.0
    cross: float = 0.0
    moved: int = 0
    swallowed: int = 0
    elements: int = 0

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.intended + other.intended,
            self.error + other.error,
            self.cross + other.cross,
            self.moved + other.moved,
            self.swallowed + other.swallowed,
            self.elements + other.elements,
        )

    @property
    def finite(self) -> bool:
        """Whether no sum says that a number was not, or was too large to square."""
        return isfinite(self.intended + self.error + self.cross)

    @property
    def cosine(self) -> float:
        """Of the angle between intended and realised change; 1 where neither is anything."""
        realised = self.intended + 2 * self.cross + self.error
        if not self.intended or realised <= 0:
            return 1.0 if self.intended == max(realised, 0.0) else 0.0
        return (self.intended + self.cross) / sqrt(self.intended * realised)

    @property
    def relative_error(self) -> float:
        """‖realised - intended‖ / ‖intended‖ (Frobenius); 0 where nothing was intended."""
        return sqrt(self.error / self.intended) if self.intended else 0.0

    @property
    def swallowed_share(self) -> float:
        """Of the elements that should have moved, how many did not."""
        return self.swallowed / self.moved if self.moved else 0.0

    @property
    def kept_share(self) -> float:
        """⟨realised, intended⟩ / ⟨intended, intended⟩: how much of the change arrived."""
        return 1 + self.cross / self.intended if self.intended else 1.0


NOTHING = Sums()


def measured(W: Tensor, D: Tensor, total: Tensor, stored: Tensor, *, alike: int | None = None) -> Sums:
    """The sums of a block: W and D float32 or float64, `total` = W + D, `stored` in the dtype written. Overwrites W.

    `alike` counts the elements that are stored as W's alone would be; None counts them as rounded to nearest.
    """
    # Counting by numpy: torch's comparisons of narrow dtypes and its counts take ten times as long (torch 2.13).
    unmoved = int(np.count_nonzero(np.equal(_bits(stored), _bits(W.to(stored.dtype))))) if alike is None else alike
    moved = D.numel() - int(np.count_nonzero(np.equal(D.numpy(), 0)))
    error = W.copy_(stored).sub_(total).flatten()
    change = D.flatten().to(error.dtype)
    return Sums(
        intended=float(torch.dot(change, change)),
        error=float(torch.dot(error, error)),
        cross=float(torch.dot(change, error)),
        moved=moved,
        swallowed=max(unmoved - (D.numel() - moved), 0),
        elements=D.numel(),
    )


def _bits(numbers: Tensor) -> NDArray[Any]:
    """The numbers' patterns: equal where the numbers are, NaN included."""
    return numbers.view(_BITS[numbers.element_size()]).numpy()
