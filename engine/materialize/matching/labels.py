"""What config.json says of a head: its class, and the names of what it tells apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_MOST = 10**6
_UNSAID = 2
"""What transformers takes where a config tells no labels."""


def labels_of(config: Mapping[str, Any]) -> int:
    """How many labels the config tells of: the number where it has one, as transformers takes it, else the names."""
    names, count = config.get("id2label"), config.get("num_labels")
    if isinstance(count, int):
        return count
    return len(names) if isinstance(names, dict) else _UNSAID


def counts(config: Mapping[str, Any], sizes: Iterable[int]) -> tuple[int, ...]:
    """How many labels heads of those sizes may have, the config's own number first; no more than a table can name."""
    own = labels_of(config)
    return (own, *sorted(size for size in set(sizes) - {own} if 0 < size <= _MOST))


def head_settings(config: Mapping[str, Any], architecture: str, count: int) -> dict[str, Any]:
    """The keys of a config for a model of the class with `count` labels; names of the base's that are as many stay."""
    found: dict[str, Any] = {"architectures": [architecture]}
    held = config.get("id2label")
    if labels_of(config) == count and (not isinstance(held, dict) or len(held) == count):
        return found
    names = {str(place): f"LABEL_{place}" for place in range(count)}
    found |= {"id2label": names, "label2id": {name: int(place) for place, name in names.items()}}
    return {**found, "num_labels": count} if "num_labels" in config else found
