"""Which slots are on, for every site of a model at once."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.model.batches.batch import BatchPlan


class _Own(threading.local):
    plan: BatchPlan | None = None
    on: bool = False


class Switch:
    """`plan` is what a forward does: the thread's own where it has one, else the one shared by all; None: the base."""

    def __init__(self) -> None:
        self.shared: BatchPlan | None = None
        self._own = _Own()

    @property
    def plan(self) -> BatchPlan | None:
        """What the next forward in this thread does."""
        own = self._own
        return own.plan if own.on else self.shared

    @property
    def has_own(self) -> bool:
        """Whether this thread has a plan of its own."""
        return self._own.on

    def set_own(self, plan: BatchPlan | None, *, on: bool = True) -> tuple[BatchPlan | None, bool]:
        """Give this thread a plan of its own, or take it away; gives what was there, to be put back."""
        before = self._own.plan, self._own.on
        self._own.plan, self._own.on = plan, on
        return before
