"""What no sum of factors can be: pairs that do not multiply, and modules of different shapes under one name."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from engine.compat.together.parameters import experts
from engine.compat.together.refusals import refusal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from engine.compat.finding import Finding
    from engine.format.facts import AdapterFacts, ModuleFacts


def contradictions(parents: Sequence[AdapterFacts]) -> Iterator[Finding]:
    """Factors that do not multiply, and modules whose parents adapt weights of different shapes."""
    found: dict[str, list[ModuleFacts]] = {}
    for facts in parents:
        for module in facts.modules:
            found.setdefault(module.name, []).append(module)
    for name, modules in found.items():
        broken = [module for module in modules if not _fits(module)]
        for module in broken:
            message = f"{name}: A {list(module.a_shape)} and B {list(module.b_shape)} do not multiply"
            yield refusal("merge-shapes", message, where=name)
        for module in (module for module in modules if _of_another_rank(module)):
            message = f"{name}: the config gives rank {module.configured_rank}, A is {list(module.a_shape)}"
            yield refusal("merge-shapes", message, where=name)
        if not broken and len({_shape(module) for module in modules}) > 1:
            shapes = " and ".join(sorted({_in_words(module) for module in modules}))
            yield refusal("merge-shapes", f"{name} has different shapes in the parents: {shapes}", where=name)


def _of_another_rank(module: ModuleFacts) -> bool:
    return module.kind != "parameter" and module.configured_rank != module.a_shape[0]


def _fits(module: ModuleFacts) -> bool:
    """Whether B's rank is A's, or for a grouped convolution divides it and the output channels evenly."""
    a, b = module.a_shape, module.b_shape
    if min(len(a), len(b), *a, *b) < 1 or len(a) < 2 or len(b) < 2 or math.prod(b[2:]) != 1:
        return False
    if a[0] == b[1]:
        return True
    return module.kind.startswith("conv") and a[0] % b[1] == 0 and b[0] % (a[0] // b[1]) == 0


def _shape(module: ModuleFacts) -> tuple[object, ...]:
    """All that must agree between parents: everything but the rank."""
    a, b = module.a_shape, module.b_shape
    return module.kind, a[1:], b[0], len(b), groups_of(module)


def groups_of(module: ModuleFacts) -> int:
    return experts(module) if module.kind == "parameter" else module.a_shape[0] // module.b_shape[1]


def _in_words(module: ModuleFacts) -> str:
    return f"{module.kind} A {list(module.a_shape)} B {list(module.b_shape)}"
