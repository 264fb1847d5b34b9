"""Ask one engine's table about one adapter."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

from engine.compat.check import ask
from engine.compat.engines.table import covered
from engine.compat.finding import Finding
from engine.compat.rule import Rule, Subject

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from engine.compat.engines.table import EngineRule, EngineTarget
    from engine.compat.rule import Hit
    from engine.compat.shared import Shared
    from engine.format.facts import AdapterFacts, BaseFacts
    from engine.format.numbers.values import ValueFacts

Verdict = Literal["loads", "refuses", "differs", "inconclusive"]

_SAYS = {"refuses": "refuses it", "differs": "computes another function", "note": "note"}


def check_for(
    facts: AdapterFacts,
    target: EngineTarget,
    *,
    base: BaseFacts | None = None,
    values: ValueFacts | None = None,
    files: Iterable[str] = (),
    shared: Shared | None = None,
) -> tuple[Finding, ...]:
    """Whether the engine loads the adapter and computes the function that PEFT 0.21.2 computes: either no is an error.

    A release outside the table gives one finding, `inconclusive`, and nothing else. Pure, as `check_adapter`;
    `shared` keeps what is said by the target, which is to be one object for all that are asked about.
    """
    if not target.engine.covers(target.version):
        return (_outside(target),)
    subject = Subject(facts, values, base, files=tuple(files))
    return ask(target, partial(_rules, target), subject, shared)


def verdict(findings: Iterable[Finding], target: EngineTarget) -> Verdict:
    """The worst of what `check_for` found for that target, in one word: refuses, then differs, inconclusive, loads."""
    outcomes = {row.id: row.outcome for row in target.engine.rules}
    found = list(findings)
    said = {outcomes.get(finding.rule) for finding in found if finding.severity == "error"}
    if "refuses" in said:
        return "refuses"
    if "differs" in said:
        return "differs"
    return "inconclusive" if any(finding.severity == "inconclusive" for finding in found) else "loads"


def _rules(target: EngineTarget) -> tuple[Rule, ...]:
    return tuple(_bound(row, target) for row in target.engine.rules if row.span.holds(target.version))


def _bound(row: EngineRule, target: EngineTarget) -> Rule:
    return Rule(row.id, row.severity, row.summary, row.needs, partial(_hits, row, target))


def _hits(row: EngineRule, target: EngineTarget, subject: Subject) -> Iterator[Hit]:
    for hit in row.function(subject, target):
        yield type(hit)(f"{target} {_SAYS[row.outcome]}: {hit.message}", hit.where, hit.fix)


def _outside(target: EngineTarget) -> Finding:
    engine = target.engine
    newest = "" if engine.newest is None else f"; ask for {engine.name}@{engine.newest}, the newest read"
    return Finding(
        f"{engine.name}-version",
        "inconclusive",
        f"{engine.title} {target.version}: the table covers {covered(engine)}",
        fix=None if not newest else f"adapters check REF --for {engine.name}@{engine.newest}",
    )
