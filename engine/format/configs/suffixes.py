"""Which of many patterns comes first for a name, without trying each: thousands of experts have a pattern each."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_MOST_KEPT = 16_384
_PLAIN = re.compile(r"[A-Za-z0-9_.]+")


class Suffixes:
    """Expressions for the end of a name, from a dot on, in their order. A class because it keeps its index.

    One of letters, digits, _ and the dot, which stands for any character, is as long as what it matches: such ones are
    found by their length and the places of their dots. `matches` tries any other.
    """

    def __init__(self, patterns: Iterable[str], matches: Callable[[str, str], bool]) -> None:
        self._matches = matches
        self._plain: dict[tuple[int, tuple[int, ...]], dict[str, tuple[int, str]]] = {}
        self._others: list[tuple[int, str]] = []
        for place, pattern in enumerate(patterns):
            if _PLAIN.fullmatch(pattern):
                dots = tuple(at for at, letter in enumerate(pattern) if letter == ".")
                self._plain.setdefault((len(pattern), dots), {}).setdefault(pattern.replace(".", ""), (place, pattern))
            else:
                self._others.append((place, pattern))

    def first(self, name: str) -> str | None:
        """The first that matches; None where none does."""
        found = min(self._among_plain(name), default=None)
        for place, pattern in self._others:
            if found is not None and found[0] < place:
                break
            if self._matches(pattern, name):
                return pattern
        return None if found is None else found[1]

    def _among_plain(self, name: str) -> list[tuple[int, str]]:
        found = []
        for (length, dots), places in self._plain.items():
            start = len(name) - length
            if start < 0 or (start > 0 and name[start - 1] != "."):
                continue
            letters = list(name[start:])
            for at in reversed(dots):
                del letters[at]
            if (known := places.get("".join(letters))) is not None:
                found.append(known)
        return found


# Thousands of adapters target the same few hundred modules by the same few endings.
@lru_cache(_MOST_KEPT)
def ends_in(name: str, endings: frozenset[str]) -> bool:
    """Whether what follows some dot of `name` is one of `endings`."""
    at = name.find(".")
    while at >= 0:
        if name[at + 1 :] in endings:
            return True
        at = name.find(".", at + 1)
    return False
