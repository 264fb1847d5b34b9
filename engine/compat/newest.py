"""Values that are costly to make, kept for the keys that were asked for last."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

Held = TypeVar("Held")


class Newest(Generic[Held]):
    """One value a key, `most` of them; a class because it keeps them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: OrderedDict[Hashable, Held] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Held]) -> Held:
        """The value for a key, made now where it is not kept."""
        found = self._held.get(key)
        if found is None:
            found = self._held[key] = make()
            if len(self._held) > self._most:
                self._held.popitem(last=False)
        self._held.move_to_end(key)
        return found
