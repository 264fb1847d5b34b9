"""The forwards that run now, each on slots that nobody writes into meanwhile."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from engine.errors import RuntimeStateError
from engine.model.batches.caches import BASE_ROWS
from engine.model.memory.moving import refuse_moved

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator

    from engine.model.batches.batch import BatchPlan
    from engine.model.batches.caches import Filled
    from engine.model.batches.switch import Switch
    from engine.model.memory.residence import Residence


class Runs:
    """Counts the slots of each thread's forward, from its start to its end.

    `exclusive`: one forward at a time, under the runtime's lock, as sealed sites share one buffer. `merged` are the
    adapters that lie in the weights: what rows without a plan go through.
    """

    def __init__(self, lock: threading.RLock, switch: Switch, residence: Residence) -> None:
        self._lock = lock
        self._switch = switch
        self._residence = residence
        self._running = 0
        self.exclusive = False
        self.merged: Filled = BASE_ROWS

    def refuse(self, what: str) -> None:
        """Raise RuntimeStateError where a forward or a batch runs, also one of the base alone."""
        if self._running:
            raise RuntimeStateError(f"{what} while a batch runs; wait for its end")

    def refuse_moved(self) -> None:
        """Raises RuntimeStateError where the model left the device of its adapters."""
        refuse_moved(self._residence.arena, self._residence.sites)

    @contextmanager
    def current(self) -> Iterator[BatchPlan | None]:
        """Let this thread go on with the plan that is on now, whatever others activate or swap meanwhile."""
        if self._switch.has_own:
            yield self._switch.plan
        elif self.exclusive:
            with self._lock, self._shared() as plan:
                yield plan
        else:
            with self._shared() as plan:
                yield plan

    @contextmanager
    def _shared(self) -> Iterator[BatchPlan | None]:
        with self._lock:
            plan = self._switch.shared
            used = used_slots(plan)
            self._residence.slots.enter(used)
        with self._held(plan, used):
            yield plan

    @contextmanager
    def on(self, plan: BatchPlan | None) -> Iterator[None]:
        """Let this thread run a plan whose slots the caller has entered already."""
        with self._held(plan, used_slots(plan)):
            yield

    @contextmanager
    def _held(self, plan: BatchPlan | None, used: frozenset[int]) -> Iterator[None]:
        with self._lock:
            self._running += 1
        before = self._switch.set_own(plan)
        self._residence.begin(used)
        try:
            yield
        finally:
            self._switch.set_own(before[0], on=before[1])
            self._residence.end(used)
            with self._lock:
                self._running -= 1
                self._residence.slots.leave(used)

    def identity(self, plan: BatchPlan | None) -> Filled:
        """Which adapters, loaded when and taken how often, each row of the plan goes through."""
        holders = self._residence.holders
        if plan is None:
            return self.merged
        if plan.whole is not None:
            return (tuple(holders[slot] for slot in plan.whole.slots),)
        return tuple((holders[slot],) if slot else () for slot in plan.rows)


def used_slots(plan: BatchPlan | None) -> frozenset[int]:
    """The slots that a plan reads, without the base's."""
    if plan is None:
        return frozenset()
    return frozenset(plan.whole.slots if plan.whole is not None else plan.rows) - {0}
