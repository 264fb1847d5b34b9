"""KV caches that know the adapters they were filled under, so that no other goes on with them.

The mark is an attribute of the cache object: a deep copy of a prefilled cache takes it along.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from engine.errors import StaleCacheError

if TYPE_CHECKING:
    from collections.abc import Callable

_NAME = "past_key_values"
_MARK = "_adapters_filled_under"

Identity = tuple[tuple[str, int, float], ...]
"""One row's adapters: name, version and factor of each, in order; empty for the base."""
Filled = tuple[Identity, ...]
"""The identity of each row of a batch, or the one of all its rows."""
BASE_ROWS: Filled = ((),)


class CacheGuard:
    """Finds the cache among a model's inputs and outputs, and holds its mark against what is on."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        names = list(inspect.signature(forward).parameters)
        self._place = names.index(_NAME) if _NAME in names else None

    def given(self, args: tuple[Any, ...], inputs: dict[str, Any]) -> Any:
        """The cache that the call brings along, None without one."""
        cache = inputs.get(_NAME)
        if cache is None and self._place is not None and len(args) > self._place:
            cache = args[self._place]
        return cache if is_cache(cache) else None

    def made(self, output: Any) -> Any:
        """The cache in a model's output, None without one."""
        if isinstance(output, tuple):
            return next((item for item in output if is_cache(item)), None)
        cache = getattr(output, _NAME, None)
        return cache if is_cache(cache) else None

    def check(self, cache: Any, now: Filled) -> None:
        """Mark the cache as filled under `now`. Raises StaleCacheError where it holds tokens of other adapters."""
        filled = getattr(cache, _MARK, None)
        if filled is None:
            filled = BASE_ROWS
        if not same_rows(filled, now) and int(cache.get_seq_length()) > 0:
            raise StaleCacheError(_told(filled), _told(now))
        self.stamp(cache, now)

    def stamp(self, cache: Any, now: Filled) -> None:
        """Mark the cache as filled under `now`."""
        setattr(cache, _MARK, now)


def is_cache(value: Any) -> bool:
    """Whether this is one of transformers' caches; tuples of tensors carry no mark."""
    return hasattr(value, "get_seq_length") and hasattr(value, "__dict__")


def same_rows(filled: Filled, now: Filled) -> bool:
    """Whether every row goes on under its own adapters. Beams repeat each row as often, within their row's place."""
    if set(filled) == set(now) and len(set(now)) == 1:
        return True
    longer, shorter = sorted((filled, now), key=len, reverse=True)
    times, rest = divmod(len(longer), len(shorter))
    return not rest and longer == tuple(one for one in shorter for _ in range(times))


def _told(rows: Filled) -> str:
    kinds = list(dict.fromkeys(rows))
    return ", ".join(" + ".join(_one(*adapter) for adapter in kind) or "the base" for kind in kinds)


def _one(name: str, version: int, factor: float) -> str:
    return f"{name!r} (load {version}" + (f", scale {factor:g})" if factor != 1.0 else ")")
