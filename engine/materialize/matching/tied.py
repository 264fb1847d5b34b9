"""Tables that a model uses twice: kept one where the adapters do the same to both, else parted and both written.

PEFT's merge_and_unload adds to the shared tensor, and so to both uses; the adapter itself, unmerged, acts on the one
that it names. What is written here computes what the unmerged adapter computes.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from engine.format.names.canonical import canonical
from engine.materialize.changes.tokens import Tokens
from engine.materialize.matching.copies import is_table
from engine.materialize.matching.same import same_numbers

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from engine.materialize.matching.effect import Effect
    from engine.materialize.matching.seats import Seats


@dataclass(frozen=True, slots=True)
class Settled:
    """The effects per adapter on what is written, the twins written besides, by the tensor whose numbers they begin
    with, and the keys of config.json that part them.
    """

    effects: tuple[tuple[Effect, ...], ...]
    parted: Mapping[str, str]
    config: Mapping[str, Any]


def settled(seats: Seats, effects: Sequence[Sequence[Effect]]) -> Settled:
    """Which tied tables stay one."""
    if not any(is_table(effect.path) for own in effects for effect in own):
        return Settled(tuple(tuple(own) for own in effects), {}, {})
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for twin, source in seats.twins.items():
        groups[source].append(twin)
    spread = [_spread(own, groups) for own in effects]
    parted: dict[str, str] = {}
    for source, twins in groups.items():
        if not all(_alike(spread, source, twin) for twin in twins):
            parted |= dict.fromkeys(twins, source)
    config = _config(seats) if parted else {}
    if config:  # a model that ties no table ties nothing: BERT's biases of the output are two then as well
        parted |= {twin: source for twin, source in seats.twins.items() if twin not in seats.frame.tensors}
    written = {canonical(name) for name in (*seats.frame.tensors, *parted)}
    kept = [tuple(effect for effect in own if effect.path in written or not _is_twin(effect, groups)) for own in spread]
    return Settled(tuple(kept), parted, config)


def _is_twin(effect: Effect, groups: Mapping[str, Sequence[str]]) -> bool:
    return any(effect.path == canonical(twin) for twins in groups.values() for twin in twins)


def _spread(own: Sequence[Effect], groups: Mapping[str, Sequence[str]]) -> list[Effect]:
    """An adapter's effects, with what spreads from a table to its twins on those too, first as in the table, unless the
    adapter has the same kind of thing for them.
    """
    spreading = [effect for effect in own if effect.spreads]
    had = {(effect.path, type(effect.change)) for effect in own}
    found: list[Effect] = []
    for source, twins in groups.items():
        for effect in spreading:
            if effect.path == canonical(source):
                paths = (canonical(twin) for twin in twins)
                found += [replace(effect, path=path) for path in paths if (path, type(effect.change)) not in had]
    return [*found, *own]


def _alike(effects: Iterable[Sequence[Effect]], source: str, twin: str) -> bool:
    """Whether every adapter does the same to both."""
    pairs = ([[one for one in own if one.path == canonical(path)] for path in (source, twin)] for own in effects)
    return all(
        len(left) == len(right) and all(_same(*pair) for pair in zip(left, right, strict=True)) for left, right in pairs
    )


def _same(one: Effect, other: Effect) -> bool:
    if one.copy is not None and other.copy is not None and one.share == other.share:
        return same_numbers(one.copy, other.copy)
    if isinstance(one.change, Tokens) and isinstance(other.change, Tokens):
        alike = replace(one.change, rows=other.change.rows) == other.change
        return alike and same_numbers(one.change.rows, other.change.rows)
    return one.change == other.change and one.copy == other.copy


def _config(seats: Seats) -> dict[str, Any]:
    """The keys that say that they are parted, of a model that asks for them."""
    if seats.live is not None and not seats.live.parts_by_config():
        return {}
    key = "tie_word_embeddings"
    found: dict[str, Any] = {key: False}
    inner = seats.frame.config.get("text_config")
    if isinstance(inner, dict) and key in inner:
        found["text_config"] = {**inner, key: False}
    return found
