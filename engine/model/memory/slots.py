"""Which adapter lies in which slot: the one unused for longest goes first, those kept or in a running batch never."""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import TYPE_CHECKING

from engine.errors import SlotsFullError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable


class Slots:
    """Slots 1 to `count`; 0 is the base's. Holds no tensor.

    A slot that a batch runs on stays as it is until the batch is over, even where its adapter was swapped or unloaded
    meanwhile: then it belongs to no name, and is free once nobody runs on it.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._held: OrderedDict[str, int] = OrderedDict()
        self._users: Counter[int] = Counter()

    def held(self) -> tuple[tuple[str, int], ...]:
        """Every adapter with its slot, the one unused for longest first."""
        return tuple(self._held.items())

    def touch(self, name: str) -> int:
        """The slot of an adapter that has one; counts as a use."""
        self._held.move_to_end(name)
        return self._held[name]

    def peek(self, name: str) -> int | None:
        """The adapter's slot; None where it has none."""
        return self._held.get(name)

    def free(self) -> int | None:
        """The first slot that no adapter has and nobody runs on."""
        taken = set(self._held.values())
        return next((slot for slot in range(1, self.count + 1) if slot not in taken and not self._users[slot]), None)

    def has_room(self, count: int, keep: Collection[str]) -> bool:
        """Whether so many adapters find a slot that is free or that of one which is not to be kept."""
        fixed = {slot for slot in range(1, self.count + 1) if self._users[slot]}
        fixed |= {slot for name, slot in self._held.items() if name in keep}
        return count <= self.count - len(fixed)

    def choose(self, keep: Collection[str], own: str | None = None) -> int:
        """A free slot; else that of the adapter `own`; else that of the one unused for longest which is not to be kept.

        Never a slot that somebody runs on. Raises SlotsFullError.
        """
        slot = self.free()
        if slot is not None:
            return slot
        candidates = [own] if own is not None else []
        candidates += [name for name in self._held if name not in keep]
        for name in candidates:
            if name in self._held and not self._users[self._held[name]]:
                return self._held[name]
        raise SlotsFullError(self.count)

    def assign(self, name: str, slot: int) -> None:
        """Let the slot be this adapter's and no other's."""
        for other in [held for held, place in self._held.items() if place == slot]:
            del self._held[other]
        self._held[name] = slot
        self._held.move_to_end(name)

    def release(self, name: str) -> None:
        """Forget the adapter."""
        self._held.pop(name, None)

    def enter(self, slots: Iterable[int]) -> None:
        """A batch begins to run on these slots."""
        self._users.update(slots)

    def leave(self, slots: Iterable[int]) -> None:
        """That batch is over."""
        self._users.subtract(slots)

    def running(self, slot: int) -> bool:
        """Whether a batch runs on it."""
        return self._users[slot] > 0
