"""Which slots a forward uses, made once per batch; each module asks for its share in the shape of its own input."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from engine.errors import BatchError
from engine.kernels.plans import Gather, Segments, Whole

if TYPE_CHECKING:
    from torch import Tensor

    from engine.kernels.plans import Plan

_FEW = 4
"""Rows per group from which sorted runs beat gathered factors (benchmarks/RESULTS.md)."""


class BatchPlan:
    """The slots of a batch: the same for every row (`Whole`), or one for each of `rows`.

    A module's input has the batch as its first dimension, or a multiple of it where rows were repeated for beams or
    flattened with their tokens: then each row has as many in a line.
    """

    __slots__ = ("_indices", "_made", "_places", "rows", "whole")

    def __init__(self, whole: Whole | None = None, rows: tuple[int, ...] = ()) -> None:
        self.whole = whole
        self.rows = rows
        self._made: dict[tuple[int, int], Plan] = {}
        self._indices: dict[tuple[int, torch.device], Tensor] = {}
        self._places: dict[tuple[int, int, torch.device], Tensor] = {}

    def index(self, first: int, device: torch.device, path: str = "") -> Tensor:
        """The slot of each of the `first` leading rows of a module's input, (first,) int64, of a plan by rows.

        Raises BatchError where that is no multiple of the batch's rows.
        """
        found = self._indices.get((first, device))
        if found is None:
            repeated = self._repeats(first, path)
            rows = torch.tensor(self.rows, dtype=torch.int64, device=device)
            found = self._indices[first, device] = rows.repeat_interleave(repeated)
        return found

    @property
    def slots(self) -> tuple[int, ...]:
        """The slots that rows have, without the base's, of a plan by rows."""
        return tuple(sorted(set(self.rows) - {0}))

    def places(self, slot: int, first: int, device: torch.device, path: str = "") -> Tensor:
        """The leading rows, of `first`, that have this slot, int64. Raises BatchError as `index`."""
        found = self._places.get((slot, first, device))
        if found is None:
            repeats = self._repeats(first, path)
            rows = [at * repeats + each for at, has in enumerate(self.rows) if has == slot for each in range(repeats)]
            found = self._places[slot, first, device] = torch.tensor(rows, dtype=torch.int64, device=device)
        return found

    def tokens(self, x: Tensor, path: str) -> Plan:
        """The plan for an input (rows, ..., in) of the module at `path`. Raises BatchError for other rows."""
        if self.whole is not None:
            return self.whole
        first = x.shape[0]
        count = x.numel() // x.shape[-1]
        made = self._made.get((first, count))
        if made is None:
            made = self._made[first, count] = self._make(first, count, x.device, path)
        return made

    def _make(self, first: int, count: int, device: torch.device, path: str) -> Plan:
        self._repeats(first, path)
        return rows_plan(self.rows, count // len(self.rows), device)

    def _repeats(self, first: int, path: str) -> int:
        repeats, rest = divmod(first, len(self.rows))
        if rest:
            raise BatchError(f"{path}: got {first} rows, expected a multiple of the batch's {len(self.rows)}")
        return repeats


def rows_plan(rows: tuple[int, ...], per_row: int, device: torch.device) -> Plan:
    """The way to run such a batch that measured fastest."""
    groups = sorted(set(rows) - {0})
    if len(rows) * per_row >= _FEW * len(groups):
        order = sorted((row for row in range(len(rows)) if rows[row]), key=lambda row: rows[row])
        return _segments(rows, order, per_row, device)
    return Gather(torch.tensor(rows, device=device), per_row)


def _segments(rows: tuple[int, ...], order: list[int], per_row: int, device: torch.device) -> Segments:
    bounds: list[tuple[int, int, int]] = []
    for place, row in enumerate(order):
        start = place * per_row
        if bounds and bounds[-1][0] == rows[row]:
            bounds[-1] = (rows[row], bounds[-1][1], start + per_row)
        else:
            bounds.append((rows[row], start, start + per_row))
    if order == list(range(len(rows))):
        return Segments(tuple(bounds), None)
    tokens = torch.tensor(order, device=device)[:, None] * per_row + torch.arange(per_row, device=device)
    return Segments(tuple(bounds), tokens.flatten())
