"""Findings of rules, for people and for machines."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from registry.cli.shown.output import emit, styled
from registry.cli.shown.text import plural, printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from engine.compat.finding import Finding
    from registry.cli.invocation import Invocation
    from registry.findings.verdicts import Accepted

_COLOURS = {"error": "red", "inconclusive": "yellow", "warning": "yellow"}
_ORDER = {"error": 0, "inconclusive": 1, "warning": 2, "info": 3}


def finding_lines(invocation: Invocation, findings: Sequence[Finding]) -> Iterator[str]:
    """One line a finding with its fix below, the worst first; rules skipped for one reason share a line."""
    told = sorted((item for item in findings if item.severity in _ORDER), key=lambda item: _ORDER[item.severity])
    severities = max((len(item.severity) for item in findings), default=0)
    rules = max((len(item.rule) for item in told), default=0)
    for finding in told:
        severity = finding.severity.ljust(severities)
        if finding.severity in _COLOURS:
            severity = styled(invocation, severity, colour=_COLOURS[finding.severity])
        place = f" [{printable(finding.where)}]" if finding.where else ""
        yield f"{severity}  {finding.rule.ljust(rules)}  {_target(finding)}{printable(finding.message)}{place}"
        if finding.fix:
            yield f"{'':{severities}}  fix: {printable(finding.fix)}"
    skipped = Counter(f"{_target(item)}{printable(item.message)}" for item in findings if item.severity == "skipped")
    for reason, count in skipped.items():
        yield f"{'skipped'.ljust(severities)}  {plural(count, 'rule')}: {reason}"


def accepted_lines(accepted: Sequence[Accepted]) -> Iterator[str]:
    """One line for each finding that a baseline accepts, with the reason."""
    for one in accepted:
        until = "" if one.until is None else f" until {one.until}"
        said = f"{_target(one.finding)}{printable(one.finding.message)}"
        yield f"accepted  {one.finding.rule}  {said}  ({printable(one.reason)}{until})"


def emit_refusal(invocation: Invocation, subjects: Sequence[str], findings: Sequence[Finding]) -> None:
    """What a refused push or merge prints on stdout: the object that `check` prints too."""
    names = subjects or sorted({finding.target for finding in findings})
    document: dict[str, Any] = {
        "status": "fail",
        "targets": dict.fromkeys(names, "fail"),
        "findings": list(findings),
    }
    emit(
        invocation,
        document,
        human=lambda: finding_lines(invocation, findings),
        quiet=lambda: rules_broken(findings),
    )


def rules_broken(findings: Sequence[Finding]) -> list[str]:
    """The ids of the rules that said error, inconclusive or warning, each once, the worst first."""
    loud = [finding for severity in _COLOURS for finding in findings if finding.severity == severity]
    return list(dict.fromkeys(finding.rule for finding in loud))


def _target(finding: Finding) -> str:
    return "" if finding.target == "adapter" else f"{printable(finding.target)}: "
