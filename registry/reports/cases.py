"""A report as cases: one for every adapter, question and rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.compat.finding import Finding
    from registry.findings.verdicts import Accepted, Policy, Verdict

Outcome = Literal["failed", "doubtful", "accepted", "skipped", "passed"]


@dataclass(frozen=True, slots=True)
class Case:
    """What one rule said for one question about one adapter."""

    verdict: Verdict
    rule: str
    outcome: Outcome
    findings: tuple[Finding, ...]
    accepted: tuple[Accepted, ...]


def cases_of(verdict: Verdict, policy: Policy) -> Iterator[Case]:
    """The rules that were asked in their order, then findings of others."""
    said: dict[str, list[Finding]] = {rule.id: [] for rule in verdict.rules}
    for finding in verdict.findings:
        said.setdefault(finding.rule, []).append(finding)
    taken: dict[str, list[Accepted]] = {}
    for one in verdict.accepted:
        said.setdefault(one.finding.rule, [])
        taken.setdefault(one.finding.rule, []).append(one)
    for rule, findings in said.items():
        accepted = tuple(taken.get(rule, ()))
        yield Case(verdict, rule, _outcome(findings, accepted, policy), tuple(findings), accepted)


def _outcome(findings: list[Finding], accepted: tuple[Accepted, ...], policy: Policy) -> Outcome:
    severities = {finding.severity for finding in findings}
    if any(policy.fails(severity) for severity in severities):
        return "failed"
    if "inconclusive" in severities:
        return "doubtful"
    if accepted:
        return "accepted"
    return "skipped" if severities == {"skipped"} else "passed"
