"""Changes of some rows alone: of layers, or experts, that are stored in one tensor with others."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from engine.materialize.changes.change import Change, Rows, Weight


@dataclass(frozen=True, slots=True)
class Within:
    """Each of `changes` is of its own `rows` (first, count), which are a weight (count, …) to it; no row is in two.

    The weight's first `fold` dimensions are its rows.
    """

    changes: tuple[Change, ...]
    rows: tuple[tuple[int, int], ...]
    fold: int = 1

    def opened(self, shape: tuple[int, ...], weight: Weight) -> Rows:
        parts = sorted(
            (
                (first, first + count, change.opened((count, *shape[self.fold :]), partial(_from, weight, first)))
                for change, (first, count) in zip(self.changes, self.rows, strict=True)
            ),
            key=_first,
        )

        def moved(start: int, stop: int, W: Tensor) -> Tensor:
            D = torch.zeros_like(W)
            # A block meets few parts: looking at all in every block takes time with the square of the experts.
            met = bisect_right(parts, start, key=_first) - 1, bisect_left(parts, stop, key=_first)
            for first, last, change in parts[max(met[0], 0) : met[1]]:
                here, there = max(start, first), min(stop, last)
                if here < there:
                    own = slice(here - start, there - start)
                    D[own] = change(here - first, there - first, W[own])
            return D

        return moved


def _from(weight: Weight, first: int, start: int, stop: int) -> Tensor:
    """The weight's rows, counted from `first`."""
    return weight(start + first, stop + first)


def _first(part: tuple[int, int, Rows]) -> int:
    return part[0]
