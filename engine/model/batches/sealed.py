"""Which slots are on as data alone: what `seal` puts in the place of a plan, so that compiled code never sees a change.

The slots of the rows lie in buffers per device that are written in place; how many rows they hold is data too. Row i of
`first` leading rows of an input belongs to row i·rows//first of the batch: beams and tokens repeat rows in line.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from engine.errors import BatchError
from engine.kernels.plans import Gather

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from torch import Tensor

    from engine.kernels.plans import Plan

    Lanes = tuple[tuple[int, ...], ...]


class SealedLane:
    """One adapter for each row, and what every device has of that: one of several that a row goes through in turn."""

    def __init__(self, devices: Iterable[torch.device], max_batch: int) -> None:
        with torch.inference_mode(mode=False):  # so that they can be written outside of it too
            self._slots = {str(device): torch.zeros(max_batch, dtype=torch.int64, device=device) for device in devices}
            self._count = {name: slots.new_ones(()) for name, slots in self._slots.items()}
        self._rows = 1

    def write(self, rows: Sequence[int]) -> None:
        """Let the rows of the next batches go through these slots; one alone stands for every row."""
        for name, slots in self._slots.items():
            slots[: len(rows)].copy_(torch.tensor(rows))
            self._count[name].fill_(len(rows))
        self._rows = len(rows)

    def index(self, first: int, device: torch.device, path: str = "") -> Tensor:
        """The slot of each of the `first` leading rows of a module's input, (first,) int64.

        Raises BatchError where that is no multiple of the batch's rows, in code that is not compiled.
        """
        if not torch.compiler.is_compiling() and first % self._rows:
            raise BatchError(f"{path}: got {first} rows, expected a multiple of the batch's {self._rows}")
        name = str(device)
        rows = torch.arange(first, device=device) * self._count[name] // first
        return self._slots[name][rows]

    def tokens(self, x: Tensor, path: str) -> Plan:
        """The plan for an input (rows, ..., in) of the module at `path`."""
        first = x.shape[0]
        return Gather(self.index(first, x.device, path), x.numel() // x.shape[-1] // first)


class SealedPlan:
    """The plan of a sealed runtime; there is one, for all threads. Rows of slot 0 go through the base alone."""

    whole = None

    def __init__(self, devices: Iterable[torch.device], max_batch: int, lanes: int) -> None:
        self.max_batch = max_batch
        where = tuple(devices)
        self.lanes = tuple(SealedLane(where, max_batch) for _ in range(lanes))
        self._shared: Lanes = ((0,),)
        self._held: list[Lanes] = []

    def share(self, slots: Sequence[int]) -> None:
        """Let every row go through these slots, at most one per lane, wherever no batch is held."""
        self._shared = tuple((slot,) for slot in slots)
        if not self._held:
            self._write(self._shared)

    @contextmanager
    def holding(self, rows: Sequence[int]) -> Iterator[None]:
        """Within, row i goes through rows[i] alone; then each through what it would have without.

        Raises BatchError for more rows than `seal` set aside.
        """
        if not 1 <= len(rows) <= self.max_batch:
            raise BatchError(f"a batch of {len(rows)} rows; the runtime was sealed for {self.max_batch} (max_batch)")
        self._held.append((tuple(rows),))
        self._write(self._held[-1])
        try:
            yield
        finally:
            self._held.pop()
            self._write(self._held[-1] if self._held else self._shared)

    def _write(self, rows: Lanes) -> None:
        for place, lane in enumerate(self.lanes):
            lane.write(rows[place] if place < len(rows) else (0,))


class SealedSwitch:
    """In the place of a `Switch` on every site: the plan is always the same object."""

    def __init__(self, plan: SealedPlan) -> None:
        self.plan = plan
