"""Which slots are on as data alone: what `seal` puts in the place of a plan, so that compiled code never sees a change.

The slots of the rows lie in a buffer per device that is written in place; how many rows it holds is data too. Row i of
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


class SealedPlan:
    """The plan of a sealed runtime; there is one, for all threads. Rows of slot 0 go through the base alone."""

    whole = None

    def __init__(self, devices: Iterable[torch.device], max_batch: int) -> None:
        self.max_batch = max_batch
        with torch.inference_mode(mode=False):  # so that they can be written outside of it too
            self._slots = {str(device): torch.zeros(max_batch, dtype=torch.int64, device=device) for device in devices}
            self._count = {name: slots.new_ones(()) for name, slots in self._slots.items()}
        self._shared: Sequence[int] = (0,)
        self._written: Sequence[int] = (0,)
        self._held = False
        self._rows = 1

    def write(self, rows: Sequence[int]) -> None:
        """Let the rows of the next batches go through these slots; one alone stands for every row.

        What runs now keeps its own to its end.
        """
        self._shared = rows
        if not self._held:
            self._put(rows)

    def _put(self, rows: Sequence[int]) -> None:
        if not 1 <= len(rows) <= self.max_batch:
            raise BatchError(f"a batch of {len(rows)} rows; the runtime was sealed for {self.max_batch} (max_batch)")
        for name, slots in self._slots.items():
            slots[: len(rows)].copy_(torch.tensor(rows))
            self._count[name].fill_(len(rows))
        self._written, self._rows = rows, len(rows)

    @contextmanager
    def holding(self, rows: Sequence[int]) -> Iterator[None]:
        """Within, the rows go through these slots, whatever is written; then through those that are to be on.

        Raises BatchError for more rows than `seal` set aside.
        """
        before, held = self._written, self._held
        self._put(rows)
        self._held = True
        try:
            yield
        finally:
            self._held = held
            self._put(before if held else self._shared)

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


class SealedSwitch:
    """In the place of a `Switch` on every site: the plan is always the same object."""

    def __init__(self, plan: SealedPlan) -> None:
        self.plan = plan
