"""Rules for adapters that meet, whatever for: one base, one layout of layers, one shape of each module."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

from engine.compat.layers import implied_weight
from engine.compat.rule import Hit, size
from engine.compat.together.group import name_of, values_in_words

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from engine.compat.layers import Shape
    from engine.compat.together.group import Group, Lineage
    from engine.format.facts import AdapterFacts, ModuleFacts


SAME_NORM = 1e-6
"""Norms of one ΔW differ by less: rounding in float32 leaves some 1e-7 of it."""


def other_type(group: Group) -> Iterator[Hit]:
    for facts in group.adapters:
        if facts.config.lora is None:
            yield Hit(f"{name_of(facts)}: expected peft_type LORA, found {facts.config.peft_type!r:.80}", "peft_type")


def too_few(group: Group) -> Iterator[Hit]:
    if len(group.adapters) < 2:
        yield Hit(
            f"{group.question} asks about adapters together: expected at least 2, found {len(group.adapters)}",
            fix=f"adapters check REF --with OTHER --together {group.question}",
        )


def different_bases(group: Group) -> Iterator[Hit]:
    """Equal fingerprints are one base, equal names are one unless both fingerprints are known and differ."""
    if group.one_base:
        return
    for one, other in _pairs(group):
        why = _apart(one[1], other[1])
        if why is not None:
            yield Hit(
                f"{name_of(one[0])} is for base {one[1].name or 'without a name'}, {name_of(other[0])} for "
                f"{other[1].name or 'one without a name'}, {why}",
                "base_model_name_or_path",
                "adapters base add PATH --name NAME for both, or one --base for all",
            )


def unnamed_base(group: Group) -> Iterator[Hit]:
    if group.one_base or not any(_known(base) for base in group.bases):
        return
    for facts, base in zip(group.adapters, group.bases, strict=True):
        if not _known(base):
            yield Hit(f"{name_of(facts)} names no base: taken to be for the others'", "base_model_name_or_path")


def _pairs(group: Group) -> Iterator[tuple[tuple[AdapterFacts, Lineage], tuple[AdapterFacts, Lineage]]]:
    first: dict[Lineage, tuple[AdapterFacts, Lineage]] = {}
    for facts, base in zip(group.adapters, group.bases, strict=True):
        if _known(base):
            first.setdefault(base, (facts, base))
    return combinations(first.values(), 2)


def _known(base: Lineage) -> bool:
    return bool(base.name or base.fingerprint)


def _apart(one: Lineage, other: Lineage) -> str | None:
    if one.fingerprint is not None and other.fingerprint is not None:
        return None if one.fingerprint == other.fingerprint else "their contents differ"
    return None if one.name and one.name == other.name else "and it is not known that their contents are equal"


def different_replication(group: Group) -> Iterator[Hit]:
    found = [(facts, lora.layer_replication or None) for facts, lora in group.loras()]
    if len({layout for _, layout in found}) > 1:
        yield Hit(f"layer_replication: expected one layout, found {values_in_words(found)}", "layer_replication")


def different_shapes(group: Group) -> Iterator[Hit]:
    """A module that several adapt has one weight, so their factors agree in everything but the rank."""
    seen: dict[str, tuple[AdapterFacts, tuple[str, Shape]]] = {}
    for facts in group.adapters:
        for module in facts.modules:
            found = _outer(module)
            first, expected = seen.setdefault(module.name, (facts, found))
            if expected != found:
                yield Hit(
                    f"module {module.name}: {name_of(first)} adapts a {_in_words(expected)}, {name_of(facts)} a "
                    f"{_in_words(found)}",
                    module.name,
                )


def same_change(group: Group) -> Iterator[Hit]:
    """Adapters of which every module changes by the same norm, to a millionth: one change under two names."""
    known = [(name_of(facts), norms) for facts, norms in zip(group.adapters, group.norms, strict=False)]
    for (one, left), (other, right) in combinations(known, 2):
        if one != other and same_norms(left, right):
            yield Hit(
                f"{one} and {other}: expected two changes, found one, module by module; a merge counts it twice",
                fix=f"adapters diff {one} {other}",
            )


def same_norms(one: Mapping[str, float | None], other: Mapping[str, float | None]) -> bool:
    """Whether two adapters change the same modules by the same ‖ΔW‖, up to rounding: one at least, and all known."""
    if one.keys() != other.keys():
        return False
    pairs = [(norm, other[name]) for name, norm in one.items()]
    same = all(a is not None and b is not None and abs(a - b) <= SAME_NORM * max(a, b) for a, b in pairs)
    return same and any(norm for norm, _ in pairs)


def _outer(module: ModuleFacts) -> tuple[str, Shape]:
    weight = implied_weight(module)
    return module.kind, (*module.b_shape[:1], *module.a_shape[1:]) if weight is None else weight


def _in_words(outer: tuple[str, Shape]) -> str:
    return f"{outer[0]} weight {size(outer[1])}"
