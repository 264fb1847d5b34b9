"""IA3: a weight's outputs or inputs, or a bias, multiplied by a vector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.materialize.stored.numbers import floats

if TYPE_CHECKING:
    from torch import Tensor

    from engine.materialize.changes.change import Rows, Weight
    from engine.materialize.stored.place import Place


@dataclass(frozen=True, slots=True)
class Scale:
    """`scale` has one number per row of the weight, or with `columns` one per entry of its second dimension, which runs
    through that vector `groups` times from the first row to the last; a share `weight` of it is taken.
    """

    scale: Place
    weight: float
    columns: bool = False
    groups: int = 1

    def opened(self, shape: tuple[int, ...], _weight: Weight) -> Rows:
        grown = (floats(self.scale).flatten() - 1) * self.weight
        if not self.columns:
            return lambda start, stop, W: W * grown[start:stop].view(-1, 1)
        by_group = grown.view(self.groups, 1, shape[1], 1).expand(-1, shape[0] // self.groups, -1, -1)
        by_row = by_group.reshape(shape[0], shape[1], 1) if self.groups > 1 else by_group[0, :1]

        def moved(start: int, stop: int, W: Tensor) -> Tensor:
            share = by_row[start:stop] if self.groups > 1 else by_row
            return (W.view(stop - start, shape[1], -1) * share).view(W.shape)

        return moved
