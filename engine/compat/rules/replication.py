"""Rules over layer_replication: ranges that the base has, and module numbers that the repeated layers have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.compat.layers import index_of, layer_number
from engine.compat.rule import Hit, size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.compat.rule import Subject


def ranges(subject: Subject) -> Iterator[Hit]:
    """Half-open ranges of the base's layers; without a base only what no base could hold."""
    count = None if subject.base is None else index_of(subject.base).layers
    for start, end in _ranges(subject):
        if not 0 <= start < end:
            yield Hit(f"layer_replication: expected 0 <= start < end, found {size((start, end))}", "layer_replication")
        elif count is not None and end > count:
            yield Hit(
                f"layer_replication: {size((start, end))} goes beyond the base, which has {count} layers",
                "layer_replication",
            )


def numbers(subject: Subject) -> Iterator[Hit]:
    """Tensor names count the layers after they were repeated."""
    found = _ranges(subject)
    if not found or any(not 0 <= start < end for start, end in found):
        return
    count = sum(end - start for start, end in found)
    for module in subject.facts.modules:
        number = layer_number(module.name)
        if number is not None and number >= count:
            yield Hit(
                f"module {module.name}: layer_replication makes {count} layers, expected a number below {count}, "
                f"found {number}",
                module.name,
            )


def _ranges(subject: Subject) -> tuple[tuple[int, int], ...]:
    lora = subject.facts.config.lora
    return () if lora is None else lora.layer_replication or ()
