"""Which slots a forward uses, made once per batch; each module asks for its share in the shape of its own input."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import torch

from engine.errors import BatchError
from engine.kernels.choice import rows_plan

if TYPE_CHECKING:
    from torch import Tensor

    from engine.kernels.plans import Plan, Whole


class BatchPlan:
    """The slots of a batch: the same for every row (`Whole`), or one for each of `rows`.

    A module's input has the batch as its first dimension, or a multiple of it where rows were repeated for beams or
    flattened with their tokens: then each row has as many in a line.
    """

    __slots__ = ("_indices", "_made", "_places", "rows", "whole")

    def __init__(self, whole: Whole | None = None, rows: tuple[int, ...] = ()) -> None:
        self.whole = whole
        self.rows = rows
        self._made: dict[tuple[int, int, torch.device], Plan] = {}
        self._indices: dict[tuple[int, torch.device], Tensor] = {}
        self._places: dict[tuple[int, int, torch.device], Tensor] = {}

    def index(self, first: int, device: torch.device, path: str = "") -> Tensor:
        """The slot of each of the `first` leading rows of a module's input, (first,) int64, of a plan by rows.

        Raises BatchError where that is no multiple of the batch's rows.
        """
        found = self._indices.get((first, device))
        if found is None:
            repeated = self._repeats(first, path)
            with torch.inference_mode(mode=False):
                rows = torch.tensor(self.rows, dtype=torch.int64, device=device)
                found = self._indices[first, device] = rows.repeat_interleave(repeated)
        return found

    @property
    def lanes(self) -> tuple[BatchPlan]:
        """What a row goes through one after the other: this plan alone."""
        return (self,)

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
        if x.dim() < 2:
            raise BatchError(f"{path}: a batch of several adapters needs inputs with a batch, found {x.dim()}-D")
        key = (x.shape[0], x.numel() // x.shape[-1], x.device)
        made = self._made.get(key)
        if made is None:
            made = self._made[key] = self._make(*key, path)
        return made

    def _make(self, first: int, count: int, device: torch.device, path: str) -> Plan:
        self._repeats(first, path)
        return _planned(self.rows, count // (len(self.rows) or 1), device)

    def _repeats(self, first: int, path: str) -> int:
        repeats, rest = divmod(first, len(self.rows) or 1)
        if rest or (first and not self.rows):
            raise BatchError(f"{path}: got {first} rows, expected a multiple of the batch's {len(self.rows)}")
        return repeats


@lru_cache(maxsize=64)
def _planned(rows: tuple[int, ...], per_row: int, device: torch.device) -> Plan:
    """The plan of such rows, which a loop over steps asks for again and again."""
    with torch.inference_mode(mode=False):  # a later call may follow gradients
        return rows_plan(rows, per_row, device)
