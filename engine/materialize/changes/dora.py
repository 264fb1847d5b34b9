"""DoRA: W + ΔW with the norm of every output set to a stored magnitude (arXiv 2402.09353)."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import torch

from engine.materialize.stored.blocks import row_blocks
from engine.materialize.stored.numbers import floats

if TYPE_CHECKING:
    from torch import Tensor

    from engine.materialize.changes.change import Rows, Weight
    from engine.materialize.changes.lowrank import LowRank
    from engine.materialize.stored.place import Place


@dataclass(frozen=True, slots=True)
class Dora:
    """`change` is ΔW at the weight 1, `magnitude` one number per output; all of it is taken `weight` times.

    With gain = m/‖W + ΔW‖ - 1 per output, of the base's own W: weight·(gain·W + (1 + gain)·ΔW), where that W has what
    earlier changes made of it, as in a forward with both adapters on.
    """

    change: LowRank
    magnitude: Place
    weight: float

    def opened(self, shape: tuple[int, ...], weight: Weight) -> Rows:
        left, right = self.change.sides()
        norms = self._norms(shape, weight, left, right)
        gain = (floats(self.magnitude).flatten().double() / norms - 1).float()
        gain = gain if self.change.transposed else gain.view(-1, 1)

        def moved(start: int, stop: int, W: Tensor) -> Tensor:
            share = gain if self.change.transposed else gain[start:stop]
            D = torch.mm(left[start:stop], right)
            return D.add_(share * (W + D)).mul_(self.weight)

        return moved

    def _norms(self, shape: tuple[int, ...], weight: Weight, left: Tensor, right: Tensor) -> Tensor:
        """Of W + ΔW per output, float64: of its rows, or of its columns where it is stored (in, out)."""
        dimension = 0 if self.change.transposed else 1
        found = torch.zeros(prod(shape[1:]) if self.change.transposed else shape[0], dtype=torch.float64)
        for start, stop in row_blocks(shape[0], prod(shape[1:])):
            moved = torch.addmm(weight(start, stop).to(left.dtype), left[start:stop], right).double()
            part = moved.square_().sum(dimension)
            if self.change.transposed:
                found += part
            else:
                found[start:stop] = part
        return found.sqrt_()
