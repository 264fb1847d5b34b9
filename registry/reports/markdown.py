"""Markdown for pages and pull requests: a table of questions, a table of findings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.reports.words import markdown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from engine.compat.finding import Finding
    from registry.findings.verdicts import CheckReport, Policy

_ORDER = {"error": 0, "inconclusive": 1, "warning": 2, "info": 3}
# GitHub takes 1 MiB of a step's summary, and shows none of a larger one.
MOST = 500


def write(report: CheckReport, _policy: Policy) -> str:
    """What was found, the worst first, at most 500 rows of it."""
    return "\n".join([f"## adapters check: {report.status}", "", *_questions(report), *_findings(report), ""])


def _questions(report: CheckReport) -> Iterator[str]:
    rows = [(verdict.adapter, verdict.question, verdict.status) for verdict in report.results]
    yield from _table(("adapter", "question", "status"), rows)


def _findings(report: CheckReport) -> Iterator[str]:
    told = sorted((one for one in report.findings if one.severity in _ORDER), key=lambda one: _ORDER[one.severity])
    rows: list[tuple[str, ...]] = [(one.severity, *_said(one), one.fix or "") for one in told]
    rows += [("accepted", *_said(one.finding), f"accepted: {one.reason}") for one in report.accepted]
    if rows:
        yield ""
        yield from _table(("severity", "rule", "adapter", "finding", "fix"), rows)


def _said(finding: Finding) -> tuple[str, str, str]:
    place = f" [{finding.where}]" if finding.where else ""
    return finding.rule, finding.target, f"{finding.message}{place}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield "|" + " --- |" * len(header)
    for row in rows[:MOST]:
        yield f"| {' | '.join(markdown(cell) for cell in row)} |"
    if len(rows) > MOST:
        yield ""
        yield f"and {len(rows) - MOST} more"
