"""A change of some rows alone: of a layer that is stored in one tensor with others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from engine.materialize.changes.change import Change, Rows, Weight


@dataclass(frozen=True, slots=True)
class Within:
    """`change` is of the `count` rows from `first` on, which are a weight (count, …) to it."""

    change: Change
    first: int
    count: int

    def opened(self, shape: tuple[int, ...], weight: Weight) -> Rows:
        inner = self.change.opened(
            (self.count, *shape[1:]), lambda start, stop: weight(start + self.first, stop + self.first)
        )

        def moved(start: int, stop: int, W: Tensor) -> Tensor:
            D = torch.zeros_like(W)
            here, there = max(start, self.first), min(stop, self.first + self.count)
            if here < there:
                own = slice(here - start, there - start)
                D[own] = inner(here - self.first, there - self.first, W[own])
            return D

        return moved
