"""Plain lines: the status of every question, then what was found, the worst first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.reports.words import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.compat.finding import Finding
    from registry.findings.verdicts import CheckReport, Policy

_ORDER = {"error": 0, "inconclusive": 1, "warning": 2, "info": 3}


def write(report: CheckReport, _policy: Policy) -> str:
    """Without colours, whatever it is printed on."""
    return "".join(f"{line}\n" for line in _lines(report))


def _lines(report: CheckReport) -> Iterator[str]:
    for verdict in report.results:
        yield f"{verdict.status.ljust(12)}  {one_line(verdict.adapter)}  {one_line(verdict.question)}"
    told = [finding for finding in report.findings if finding.severity in _ORDER]
    for finding in sorted(told, key=lambda finding: _ORDER[finding.severity]):
        yield f"{finding.severity.ljust(12)}  {_said(finding)}"
        if finding.fix:
            yield f"{'':12}  fix: {one_line(finding.fix)}"
    for one in report.accepted:
        until = "" if one.until is None else f" until {one.until}"
        yield f"{'accepted'.ljust(12)}  {_said(one.finding)}: {one_line(one.reason)}{until}"
    skipped = sum(finding.severity == "skipped" for finding in report.findings)
    if skipped:
        yield f"{'skipped'.ljust(12)}  {skipped} rules"


def _said(finding: Finding) -> str:
    place = f" [{one_line(finding.where)}]" if finding.where else ""
    return f"{finding.rule}  {one_line(finding.target)}: {one_line(finding.message)}{place}"
