"""Parents that adapt bare parameters (target_parameters): what of them the file leaves open, decided or refused.

Experts lie in one pair of factors: A (experts·rank, in) holds expert after expert, B (out, rank·experts) rank after
rank with the experts innermost, as peft writes both since 0.17. Which parameter of a module a wrapper holds stands
nowhere in the file: PEFT nests them in the order in which the base model registers them.
"""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import permutations
from math import sqrt
from typing import TYPE_CHECKING

from engine.compat.together.refusals import refusal
from engine.format.configs.patterns import Matcher
from engine.format.names.keys import wrapped_path
from engine.format.names.modules import parameter_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from engine.compat.finding import Finding
    from engine.format.facts import AdapterFacts, ModuleFacts

RULE = "merge-target-parameters"

SWAPPED_SINCE = (0, 19)
"""Since this peft, A's columns of a parameter (experts, out, in) are the last dimension; before, the middle one."""

MOST_WRAPPERS = 5
"""Parameters of one module that are told apart by their ranks; more would mean too many orders to try."""

Choice = tuple[int, float]
"""Rank and alpha."""


def experts(module: ModuleFacts) -> int:
    """How many matrices one pair of factors of kind `parameter` holds: 1 for a parameter of two dimensions."""
    return max(1, module.a_shape[0] // module.rank)


def leaves(module: str, targets: Iterable[str]) -> tuple[str, ...]:
    """The names that parameters of `module` can have, sorted."""
    return tuple(sorted({name.rpartition(".")[2] for name in parameter_names(wrapped_path(module), targets)}))


def resolved(facts: AdapterFacts) -> tuple[AdapterFacts, list[Finding]]:
    """The parent with the rank and scaling of every parameter, and the modules for which they cannot be told."""
    groups: dict[str, list[ModuleFacts]] = {}
    for module in facts.modules:
        if module.kind == "parameter":
            groups.setdefault(wrapped_path(module.name), []).append(module)
    if facts.config.lora is None or not groups:
        return facts, []
    matcher, targets = Matcher(facts.config.lora), facts.config.lora.target_parameters or ()
    found: dict[str, ModuleFacts] = {}
    findings = []
    for path, modules in groups.items():
        choices = [matcher.effective(f"{path}.{leaf}") for leaf in leaves(path, targets)]
        orders = _orders(modules, choices)
        if len(orders) != 1:
            findings.append(_unclear(facts, path, modules, choices))
            continue
        for module, (rank, alpha) in zip(modules, orders.pop(), strict=True):
            scaling = alpha / (sqrt(rank) if facts.config.lora.use_rslora else rank)
            found[module.name] = replace(module, rank=rank, alpha=alpha, scaling=scaling, configured_rank=rank)
    return replace(facts, modules=tuple(found.get(module.name, module) for module in facts.modules)), findings


def _orders(modules: Sequence[ModuleFacts], choices: Sequence[Choice]) -> set[tuple[Choice, ...]]:
    """The ways to give every wrapper of one module its rank and alpha under which all hold equally many experts."""
    if len(set(choices)) == 1 and len(modules) <= len(choices):
        order = (choices[0],) * len(modules)
        return {order} if all(_divides(*pair) for pair in zip(modules, order, strict=True)) else set()
    if len(choices) > MOST_WRAPPERS:
        return set()
    return {order for order in permutations(choices, len(modules)) if _consistent(modules, order)}


def _consistent(modules: Sequence[ModuleFacts], order: Sequence[Choice]) -> bool:
    pairs = list(zip(modules, order, strict=True))
    return all(_divides(*pair) for pair in pairs) and len({one.a_shape[0] // rank for one, (rank, _) in pairs}) == 1


def _divides(module: ModuleFacts, choice: Choice) -> bool:
    return choice[0] > 0 and module.a_shape[0] % choice[0] == 0


def _unclear(facts: AdapterFacts, path: str, modules: Sequence[ModuleFacts], choices: Sequence[Choice]) -> Finding:
    rows = " and ".join(str(module.a_shape[0]) for module in modules)
    ranks = " and ".join(f"rank {rank} alpha {alpha:g}" for rank, alpha in sorted(set(choices))) or "none"
    message = f"{facts.path.name} adapts parameters of {path} with {rows} rows in A, and which has which of {ranks}"
    return refusal(RULE, f"{message} cannot be told from the file", target=str(facts.path), where=path)


def disagreements(parents: Sequence[AdapterFacts]) -> Iterator[Finding]:
    """Parents whose parameters could be confused: other names, or square ones that other versions of peft turned."""
    having = [facts for facts in parents if any(module.kind == "parameter" for module in facts.modules)]
    named = {tuple(sorted(facts.config.lora.target_parameters or ())) for facts in having if facts.config.lora}
    if len(named) > 1:
        told = " and ".join(str(list(names)) for names in sorted(named))
        yield refusal(RULE, f"parents adapt different parameters, whose places are not in the files: {told}")
    old = {since for facts in having if (since := before_swap(facts.config.peft_version)) is not None}
    square = sorted({module.name for facts in having for module in facts.modules if _square(module)})
    if len(old) > 1 and square:
        message = (
            f"{square[0]}: peft before and since 0.19 lay its square experts out differently, and parents have both"
        )
        yield refusal(RULE, message, where=square[0])


def _square(module: ModuleFacts) -> bool:
    return module.kind == "parameter" and experts(module) > 1 and module.a_shape[1:] == module.b_shape[:1]


def before_swap(version: str | None) -> bool | None:
    """Whether this peft is older than the change of layout; None where no version is given."""
    found = re.match(r"(\d+)\.(\d+)", version or "")
    return None if found is None else (int(found[1]), int(found[2])) < SWAPPED_SINCE
