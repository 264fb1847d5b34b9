"""Which adapter lies in which slot: the one unused for longest goes first, those to be kept never."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from engine.errors import SlotsFullError

if TYPE_CHECKING:
    from collections.abc import Collection


class Slots:
    """Slots 1 to `count`; 0 is the base's. Holds no tensor."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._held: OrderedDict[str, int] = OrderedDict()

    def held(self) -> tuple[tuple[str, int], ...]:
        """Every adapter with its slot, the one unused for longest first."""
        return tuple(self._held.items())

    def get(self, name: str) -> int | None:
        """The adapter's slot, which counts as a use; None where it has none."""
        if name not in self._held:
            return None
        self._held.move_to_end(name)
        return self._held[name]

    def choose(self, keep: Collection[str]) -> int:
        """A free slot, else that of the adapter unused for longest which is not to be kept.

        Raises SlotsFullError where all are to be kept.
        """
        free = set(range(1, self.count + 1)) - set(self._held.values())
        if free:
            return min(free)
        for name, slot in self._held.items():
            if name not in keep:
                return slot
        raise SlotsFullError(self.count)

    def assign(self, name: str, slot: int) -> None:
        """Let the slot be this adapter's and no other's."""
        for other in [held for held, place in self._held.items() if place == slot]:
            del self._held[other]
        self._held[name] = slot

    def release(self, name: str) -> None:
        """Forget the adapter."""
        self._held.pop(name, None)
