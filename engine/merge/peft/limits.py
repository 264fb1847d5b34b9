"""What PEFT's merge cannot do, or does to nobody's use, and the rank its result's config gets. No torch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from engine.compat.together.refusals import refusal
from engine.errors import OptionError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from engine.compat.finding import Finding
    from engine.format.configs.settings import LoraSettings
    from engine.format.facts import AdapterFacts, ModuleFacts
    from engine.merge.given.ranks import RankRule
    from engine.merge.plan import ModulePlan
    from engine.merge.table import Method

RULE = "merge-peft"

NARROWING = ("layers_to_transform", "layers_pattern", "exclude_modules")
"""Keys of the first parent that the result inherits, and by which it may lose modules of the others."""

KEPT = {"embedding"}
"""Roles of tensors that are the base's own, so that nothing is lost where PEFT leaves them out."""


def check_rule(method: str, row: Method, rule: RankRule) -> None:
    """Raises OptionError for a rank rule that PEFT does not know."""
    if rule.measured or rule.rank == "max":
        raise OptionError(f"{method} under peft semantics takes a number as its rank, or none")
    if row.same_rank and rule.rank is not None:
        raise OptionError(f"{method} under peft semantics has the parents' rank and takes no other; {method}_svd cuts")


def highest_rank(lora: LoraSettings) -> int:
    """The largest rank that r and rank_pattern speak of, whether or not a module has it."""
    return max([lora.r, *lora.rank_pattern.values()])


def result_rank(row: Method, parents: Sequence[AdapterFacts], rule: RankRule) -> int:
    """The r and lora_alpha of PEFT's result."""
    highest = [highest_rank(facts.config.lora) for facts in parents if facts.config.lora]
    if row.stacks:
        return sum(highest)
    number = rule.rank if isinstance(rule.rank, int) and not row.same_rank else None
    return number or max(highest)


def inflation(row: Method, parents: Sequence[AdapterFacts], rule: RankRule) -> float:
    """The scaling of PEFT's result: 1, but √R where the first parent's rsLoRA is inherited."""
    lora = parents[0].config.lora
    return math.sqrt(result_rank(row, parents, rule)) if lora and lora.use_rslora else 1.0


def check(row: Method, parents: Sequence[AdapterFacts], modules: Sequence[ModulePlan], rule: RankRule) -> None:
    """Raises RefusedError with every reason why PEFT raises, or gives what no one can use."""
    findings = list(_refusals(row, parents, modules, result_rank(row, parents, rule)))
    if findings:
        raise RefusedError(findings)


def _refusals(
    row: Method, parents: Sequence[AdapterFacts], modules: Sequence[ModulePlan], rank: int
) -> Iterator[Finding]:
    for facts in parents:
        for role in sorted(set(facts.others.values()) - KEPT):
            yield refusal(RULE, f"PEFT would lose what {facts.path.name} holds besides factors ({role})")
    for name in sorted({module.name for facts in parents for module in facts.modules if module.kind == "parameter"}):
        yield refusal(RULE, f"{name}: PEFT merges no bare parameters (target_parameters)", where=name)
    if len(parents) == 1:
        return
    settings = [facts.config.lora for facts in parents if facts.config.lora]
    if len({isinstance(lora.target_modules, str) for lora in settings}) > 1:
        yield refusal(RULE, "PEFT does not join target_modules that are a list and a regular expression")
    highest = [highest_rank(lora) for lora in settings]
    if row.same_rank and len(set(highest)) > 1:
        yield refusal(RULE, f"PEFT wants one rank of all parents here, not {', '.join(map(str, highest))}")
    yield from _dropped(parents)
    for module in modules:
        for reason in _module(row, module, rank):
            yield refusal(RULE, f"{module.name}: {reason}", where=module.name)


def _dropped(parents: Sequence[AdapterFacts]) -> Iterator[Finding]:
    first = parents[0]
    narrowing = [key for key in NARROWING if getattr(first.config.lora, key, None) is not None]
    own = {module.name for module in first.modules}
    if narrowing and any(module.name not in own for facts in parents for module in facts.modules):
        keys = " and ".join(narrowing)
        yield refusal(RULE, f"the result inherits {keys} of {first.path.name}, by which PEFT loses others' modules")


def _module(row: Method, module: ModulePlan, rank: int) -> Iterator[str]:
    facts = [piece.module for piece in module.pieces]
    ranks = [one.rank for one in facts]
    if row.same_rank and len(set(ranks)) > 1:
        yield f"PEFT cannot stack factors of ranks {', '.join(map(str, ranks))}"
    if module.groups > 1:
        yield "PEFT joins the ranks of a grouped convolution without regard to its groups"
    elif not (row.same_rank or row.stacks):
        yield from _decomposed(facts[0], rank)


def _decomposed(module: ModuleFacts, rank: int) -> Iterator[str]:
    if module.kind in ("conv1d", "conv3d"):
        yield f"PEFT raises on the SVD of a {module.kind}"
    if module.kind != "conv2d":
        return
    if module.a_shape[2:] == (1, 1) and 1 in (module.a_shape[1], module.b_shape[0]):
        yield "PEFT raises on the SVD of a 1x1 convolution with one channel"
    elif rank > (most := min(module.b_shape[0], math.prod(module.a_shape[1:]))):
        yield f"PEFT raises on rank {rank} of a convolution that has {most} singular values"
