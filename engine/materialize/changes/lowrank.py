"""ΔW = factor·B·A on a weight stored (out, in), or (in, out)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from engine.materialize.stored.numbers import floats

if TYPE_CHECKING:
    from torch import Tensor

    from engine.materialize.changes.change import Rows, Weight
    from engine.materialize.stored.place import Place


@dataclass(frozen=True, slots=True)
class LowRank:
    """A (r, in, …) and B (out, r, …), `factor` times; `transposed` for a weight stored (in, out), or a table (in, out).

    `E` are AdaLoRA's numbers, one per rank.
    """

    A: Place
    B: Place
    factor: float
    transposed: bool = False
    E: Place | None = None

    def opened(self, _shape: tuple[int, ...], _weight: Weight) -> Rows:
        left, right = self.sides()
        return lambda start, stop, _: torch.mm(left[start:stop], right)

    def sides(self) -> tuple[Tensor, Tensor]:
        """The two matrices whose product is ΔW as it is stored, the factor in the left one."""
        A, B = floats(self.A).flatten(1), floats(self.B).flatten(1)
        if self.E is not None:
            A = A * floats(self.E).view(-1, 1)
        left, right = (A.T, B.T) if self.transposed else (B, A)
        return left * self.factor, right
