"""The ranks of bare parameters (target_parameters) in a result: one for all of a module, as its config can say."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from engine.format.names.keys import wrapped_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from engine.merge.plan import ModulePlan


def evened(modules: Iterable[ModulePlan], choose: Callable[[Iterable[int]], int] = max) -> tuple[ModulePlan, ...]:
    """The modules with one rank for all parameters of one module, since the config cannot say which has which."""
    modules = tuple(modules)
    found: dict[str, list[int]] = {}
    for module in modules:
        if module.experts:
            found.setdefault(wrapped_path(module.name), []).append(module.declared_rank)
    ranks: Mapping[str, int] = {path: choose(declared) for path, declared in found.items()}
    return tuple(
        replace(module, rank=module.groups * ranks[wrapped_path(module.name)]) if module.experts else module
        for module in modules
    )
