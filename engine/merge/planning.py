"""A merge is planned: everything decided and checked from headers and configs, before a tensor is read."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from engine.compat.together.biases import bias_findings
from engine.compat.together.factors import contradictions, groups_of
from engine.compat.together.ia3 import all_ia3, ia3_refusals, is_vector, with_vectors
from engine.compat.together.parameters import disagreements, resolved
from engine.compat.together.refusals import refusals
from engine.errors import OptionError, RefusedError
from engine.format.adapter import read_adapter
from engine.merge.dtypes import parse_dtype, widest
from engine.merge.given.options import Options, complete
from engine.merge.given.ranks import RankRule
from engine.merge.matrices.dora import dora_weights
from engine.merge.measuring.swallow import base_weights
from engine.merge.methods import ALIASES, find
from engine.merge.peft import limits
from engine.merge.peft.order import natural
from engine.merge.plan import MergePlan, ModulePlan, Piece
from engine.merge.result.biases import summed_biases
from engine.merge.result.others import gather, parse_other
from engine.merge.result.parameters import evened

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from engine.compat.finding import Finding
    from engine.format.facts import AdapterFacts
    from engine.merge.given.source import Source
    from engine.merge.given.weights import Weight
    from engine.merge.matrices.dora import DoraWeight
    from engine.merge.methods import Method


DEFAULT_RULE = RankRule()


NO_OPTIONS = Options()


def plan(
    sources: Sequence[Source],
    *,
    method: str,
    semantics: str = "exact",
    rule: RankRule = DEFAULT_RULE,
    options: Options = NO_OPTIONS,
    dtype: str | None = None,
    other: str = "refuse",
    base: Path | None = None,
) -> MergePlan:
    """Reads configs and headers of `sources` and decides the result.

    `other` says what becomes of full copies, biases and token rows that several parents have: `average` (by weight),
    `first` (the first such parent's) or `refuse`. `base` is the base model's checkpoint, a folder or a file: DoRA
    parents need it, and with it the report tells what the base's dtype would swallow.

    Raises OptionError for an unknown method, semantics, option, `other` or dtype, a rank beside a method that stacks,
    too few or too many sources, a weight that is not finite, or weights that the method cannot take; UnreadableError
    or PatternError for a folder that is no adapter; RefusedError, with every reason, for parents that cannot be merged.
    """
    peft = semantics == "peft"
    method = method if peft else ALIASES.get(method, method)
    row = find(method, semantics, parents=len(sources))
    _check_options(sources, method, semantics, rule)
    complete_options = complete(options, find(method, semantics).defaults, method=method)
    wanted = None if dtype is None else parse_dtype(dtype)
    parents, unclear = _read(sources)
    findings = [*(ia3_refusals(parents, method, semantics) if all_ia3(parents) else refusals(parents)), *unclear]
    others, extras, problems = gather(parents, parse_other(other))
    findings += problems
    findings += bias_findings(parents, method, linear=row.linear)
    dora, problems = dora_weights(parents, base, method, takes=row.full_rank)
    findings += problems
    findings += _disagreements(parents)
    if findings:
        raise RefusedError(findings)
    limit = limits.result_rank(row, parents, rule) if peft else _limit(rule, parents)
    modules = _modules(_pieces(parents, dora), limit, row)
    if peft:
        limits.check(row, parents, modules, rule)
    result_dtype = wanted or ("F32" if peft else widest(_dtypes(parents)))
    biases = summed_biases(parents, modules, result_dtype)
    planned = MergePlan(
        method=method,
        sources=tuple(sources),
        parents=tuple(parents),
        dtype=result_dtype,
        rule=rule,
        options=complete_options,
        modules=modules,
        others=(*others, *biases),
        extras=replace(extras, lora_bias=bool(biases)),
        semantics=semantics,
        base_weights=base_weights(modules, parents, base),
        inflation=limits.inflation(row, parents, rule) if peft else 1.0,
    )
    check_weights(planned, [source.weighting for source in sources])
    return planned


def check_weights(planned: MergePlan, weights: Sequence[Weight]) -> None:
    """Raises OptionError where the method cannot take these weights, one a parent, in some module, or a rule among them
    fits none; RefusedError where they add up to 0 and something has to be averaged.
    """
    names = {one.name for one in planned.modules} | {one.module for one in planned.others}
    for rule in (rule for weight in weights for rule in weight.rules):
        if not any(map(rule.fits, names)):
            raise OptionError(f"weight {rule.weight:g} for {rule.told}: no module of these adapters fits")
    for one in planned.others:
        one.factors(weights)
    check = planned.row.check
    if check is not None:
        for row in {tuple(weight.of(module.name) for weight in weights): None for module in planned.modules}:
            check(row)


def _read(sources: Sequence[Source]) -> tuple[list[AdapterFacts], list[Finding]]:
    found = [resolved(with_vectors(read_adapter(source.path))) for source in sources]
    return [facts for facts, _ in found], [finding for _, findings in found for finding in findings]


def _check_options(sources: Sequence[Source], method: str, semantics: str, rule: RankRule) -> None:
    row, count = find(method, semantics), len(sources)
    if count < row.fewest or (row.most is not None and count > row.most):
        wanted = "" if row.most == row.fewest else "at least "
        raise OptionError(f"{method} merges {wanted}{row.fewest} adapter{'s' * (row.fewest > 1)}, not {count}")
    for source in sources:
        if not source.weighting.is_finite:
            raise OptionError(f"weight {source.weight} of {source.path.name} is not a finite number everywhere")
    if row.stacks and rule != RankRule("max") and rule != DEFAULT_RULE:
        raise OptionError(f"{method} is exact and its rank is the sum of the parents'; use svd for another rank")
    if semantics == "peft":
        limits.check_rule(method, row, rule)


def _limit(rule: RankRule, parents: Sequence[AdapterFacts]) -> int:
    if rule.rank == "max" or rule.measured:
        return sys.maxsize
    return rule.rank or max(module.rank for facts in parents for module in facts.modules)


def _dtypes(parents: Sequence[AdapterFacts]) -> Iterator[str]:
    for facts in parents:
        for module in facts.modules:
            yield facts.header.tensors[module.a_key].dtype
            yield facts.header.tensors[module.b_key].dtype


def _pieces(
    parents: Sequence[AdapterFacts], dora: Mapping[str, Mapping[str, DoraWeight]] | None = None
) -> dict[str, list[Piece]]:
    found: dict[str, list[Piece]] = {}
    for place, facts in enumerate(parents):
        weights = (dora or {}).get(str(facts.path), {})
        for module in facts.modules:
            found.setdefault(module.name, []).append(Piece(place, module, weights.get(module.name)))
    return found


def _disagreements(parents: Sequence[AdapterFacts]) -> Iterator[Finding]:
    """What no sum of these factors can be; vectors of IA3 have none."""
    if all(facts.config.lora is not None for facts in parents):
        yield from contradictions(parents)
        yield from disagreements(parents)


def _modules(pieces: Mapping[str, Sequence[Piece]], limit: int, row: Method) -> tuple[ModulePlan, ...]:
    names = sorted(pieces, key=natural if row.ordered else None)
    return evened(_module(name, pieces[name], limit, row) for name in names)


def _module(name: str, pieces: Sequence[Piece], limit: int, row: Method) -> ModulePlan:
    a, b = pieces[0].module.a_shape, pieces[0].module.b_shape
    if is_vector(pieces[0].module):
        return ModulePlan(name, 1, 1, tuple(pieces), vector=True)
    groups, parameter = groups_of(pieces[0].module), pieces[0].module.kind == "parameter"
    rank = pieces[0].module.rank if row.same_rank else sum(piece.rank for piece in pieces)
    if not (row.stacks or row.same_rank):
        # Of each group, so that every group keeps the same number of singular values: B's layout asks for it.
        rows, share = (b[0], limit) if parameter else (b[0] // groups, max(1, limit // groups))
        most = min(rows, math.prod(a[1:]), share)
        rank = groups * (most if row.dense else min(most, rank // groups))
    return ModulePlan(name, rank, groups, tuple(pieces), experts=parameter)
