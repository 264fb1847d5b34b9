"""Which configuration keys each release of PEFT knows, read out of `peft_changes.py`."""

from __future__ import annotations

from functools import cache

from engine.compat.engines.peft_changes import BASE, CHANGES


@cache
def keys_of(release: tuple[int, ...], peft_type: str) -> frozenset[str] | None:
    """The keys that a release knows for a type, None where it has no such type."""
    own: set[str] = set()
    for since, kind, came, went in _rows():
        if kind == peft_type and since <= release:
            own = (own | came) - went
    return BASE | own if own else None


@cache
def _rows() -> tuple[tuple[tuple[int, ...], str, frozenset[str], frozenset[str]], ...]:
    rows = []
    for row in CHANGES.replace("\n  ", " ").strip().splitlines():
        since, kind, *keys = row.split()
        end = keys.index("-") if "-" in keys else len(keys)
        numbers = tuple(map(int, since.split(".")))
        rows.append((numbers, kind, frozenset(keys[1:end]), frozenset(keys[end + 1 :])))
    return tuple(rows)
