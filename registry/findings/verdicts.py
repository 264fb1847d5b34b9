"""What a check came to: frozen values that every report is written from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from engine.compat.finding import worst_status

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import date

    from engine.compat.finding import Finding, Severity, Status

CHECKIN = "checkin"
FailOn = Literal["error", "warning"]
Doubt = Literal["fail", "allow"]


@dataclass(frozen=True, slots=True)
class Asked:
    """A rule that was asked, whatever it answered."""

    id: str
    summary: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """A finding that a baseline accepts, and why; `until` is the last day on which it does."""

    finding: Finding
    reason: str
    until: date | None = None

    def as_json(self) -> dict[str, Any]:
        """The finding's object with the reason."""
        until = None if self.until is None else self.until.isoformat()
        return {**self.finding.as_json(), "reason": self.reason, "until": until}


@dataclass(frozen=True, slots=True)
class Verdict:
    """One question about one adapter.

    `question` is `checkin`, an engine as asked for (`vllm@0.33.0`), or what several adapters are to do together;
    `adapter` the reference or path as given. `digest` is the version's, None for a path. `ruleset` names the rules
    that answered. `stored` tells that they did so before. `numbers` go with an answer (`hotswap`: the slot's rank).
    """

    adapter: str
    question: str
    findings: tuple[Finding, ...]
    rules: tuple[Asked, ...] = ()
    accepted: tuple[Accepted, ...] = ()
    digest: str | None = None
    ruleset: str | None = None
    stored: bool = False
    numbers: Mapping[str, Any] = field(default_factory=dict)

    @property
    def status(self) -> Status:
        """The worst of the findings; accepted ones do not count."""
        return worst_status(self.findings)

    def as_json(self) -> dict[str, Any]:
        """Everything but the findings, which stand in the report."""
        return {
            "adapter": self.adapter,
            "question": self.question,
            "status": self.status,
            "digest": self.digest,
            "ruleset": self.ruleset,
            "rules": [rule.id for rule in self.rules],
            "stored": self.stored,
            "numbers": dict(self.numbers),
        }


@dataclass(frozen=True, slots=True)
class CheckState:
    """What the catalog keeps of a question about a version; `stale` where today's rules, or its base, are others."""

    question: str
    status: str
    stale: bool


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What the rules said, over all targets. `findings` are those of all `results` in order."""

    status: Status
    targets: Mapping[str, Status]
    findings: tuple[Finding, ...]
    results: tuple[Verdict, ...] = ()

    @property
    def accepted(self) -> tuple[Accepted, ...]:
        """What a baseline accepts, of all results."""
        return tuple(one for verdict in self.results for one in verdict.accepted)

    def as_json(self) -> dict[str, Any]:
        """The object of design section 6, and which question each finding answers."""
        asked = [(verdict.question, finding) for verdict in self.results for finding in verdict.findings]
        if not self.results:
            asked = [(CHECKIN, finding) for finding in self.findings]
        return {
            "status": self.status,
            "targets": dict(self.targets),
            "findings": [{**finding.as_json(), "question": question} for question, finding in asked],
            "accepted": [
                {**one.as_json(), "question": verdict.question} for verdict in self.results for one in verdict.accepted
            ],
            "results": [verdict.as_json() for verdict in self.results],
        }


@dataclass(frozen=True, slots=True)
class Policy:
    """What makes a check fail: errors always, warnings by `fail_on`; whether a doubt does."""

    fail_on: FailOn = "error"
    inconclusive: Doubt = "fail"

    def fails(self, severity: Severity) -> bool:
        """Whether one finding of this severity is a failure."""
        return severity == "error" or (severity == "warning" and self.fail_on == "warning")

    def exit_code(self, report: CheckReport) -> int:
        """1 for any failing finding, else 3 for an inconclusive one unless those are allowed, else 0."""
        severities = {finding.severity for finding in report.findings}
        warned = report.status == "warn" or "warning" in severities
        if report.status == "fail" or (self.fail_on == "warning" and warned):
            return 1
        return 3 if report.status == "inconclusive" and self.inconclusive == "fail" else 0


def assemble(verdicts: Iterable[Verdict]) -> CheckReport:
    """One report of all verdicts; an adapter's status is the worst of its questions'."""
    results = tuple(verdicts)
    findings = tuple(finding for verdict in results for finding in verdict.findings)
    by_adapter: dict[str, list[Finding]] = {}
    for verdict in results:
        by_adapter.setdefault(verdict.adapter, []).extend(verdict.findings)
    targets = {adapter: worst_status(found) for adapter, found in by_adapter.items()}
    return CheckReport(worst_status(findings), targets, findings, results)
