"""Rules over the numbers in the tensors: finite, and trained?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.compat.rule import Hit, listed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.compat.rule import Subject
    from engine.format.facts import ModuleFacts


def nonfinite(subject: Subject) -> Iterator[Hit]:
    if subject.values is None:
        return
    for tensor, count in sorted(subject.values.nonfinite.items()):
        if count:
            total = subject.facts.header.tensors[tensor].count if tensor in subject.facts.header.tensors else count
            yield Hit(f"tensor {tensor}: expected finite numbers, found {count} NaN or Inf among {total}", where=tensor)


def unscanned(subject: Subject) -> Iterator[Hit]:
    if subject.values is not None and (names := subject.values.unscanned):
        yield Hit(
            f"{len(names)} tensors have a dtype whose numbers are not looked into: {listed(names)}", where=names[0]
        )


def zero_factor(subject: Subject) -> Iterator[Hit]:
    """The factor that starts at zero is still zero, so the module adds nothing: B, or A of an embedding."""
    if subject.values is None:
        return
    zero = frozenset(subject.values.zero)
    modules = subject.facts.modules if zero else ()
    untrained = [module.name for module in modules if _starts_at_zero(module) & zero]
    if untrained:
        share = "all" if len(untrained) == len(subject.facts.modules) else f"{len(untrained)} of"
        yield Hit(
            f"{share} {len(subject.facts.modules)} modules add nothing, their factor is all zero "
            f"(never trained?): {listed(untrained)}",
            where=untrained[0],
        )


def _starts_at_zero(module: ModuleFacts) -> frozenset[str]:
    # Either factor at zero makes the product zero; PEFT starts embeddings with a zero A.
    return frozenset({module.a_key, module.b_key} if module.kind == "embedding" else {module.b_key})
