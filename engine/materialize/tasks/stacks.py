"""Factors that the tasks of one run share: the B of a mixture's experts, read once for all of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING

from engine.materialize.changes.experts import Expert, stack_of
from engine.materialize.folder.identity import identity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor

    from engine.materialize.folder.identity import Identity
    from engine.materialize.stored.place import Place
    from engine.materialize.tasks.task import Task

    Stacks = Callable[[Place, int], Tensor]
    """B (out, r·experts) of that many experts as (experts, out, r), in its stored dtype."""

LIMIT = 1 << 28
"""Bytes of stacks that a run keeps, besides the newest."""


@dataclass(slots=True)
class _Slot:
    """A stack, once it is read; who reads it holds the lock."""

    lock: Lock = field(default_factory=Lock)
    stack: Tensor | None = None


class Shared:
    """The stacks of one run, each read by whoever asks first. A class because it holds them.

    What a file held before it changed is never given: a stack is of the file as the system tells of it at the time.
    """

    def __init__(self, *, limit: int = LIMIT) -> None:
        self._limit = limit
        self._lock = Lock()
        self._held: dict[tuple[Place, int, Identity], _Slot] = {}

    def __call__(self, B: Place, experts: int) -> Tensor:
        key = (B, experts, identity(B.file))
        with self._lock:
            slot = self._held.pop(key) if key in self._held else _Slot()
            self._held[key] = slot  # the last used stands last
            self._let_go()
        with slot.lock:
            if slot.stack is None:
                slot.stack = stack_of(B, experts)
            return slot.stack

    def _let_go(self) -> None:
        """Forget the longest unused beyond the limit."""
        size = sum(place.size for place, _, _ in self._held)
        for key in list(self._held)[:-1]:
            if size <= self._limit:
                return
            size -= key[0].size
            del self._held[key]


def side_by_side(tasks: Iterable[Task]) -> list[Task]:
    """The tasks in an order in which those that share stacks follow each other, so that few are held at a time."""
    numbered = list(enumerate(tasks))
    first: dict[object, int] = {}
    places = [first.setdefault(_shared_by(task) or number, number) for number, task in numbered]
    return [task for _, (_, task) in sorted(zip(places, numbered, strict=True), key=lambda pair: pair[0])]


def _shared_by(task: Task) -> tuple[Place, ...]:
    return tuple(change.B for change in task.changes if isinstance(change, Expert))
