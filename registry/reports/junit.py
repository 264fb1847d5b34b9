"""JUnit XML as CI systems read it: a suite for each adapter and question, a case for each rule."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from registry.reports.cases import cases_of
from registry.reports.words import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from registry.findings.verdicts import CheckReport, Policy, Verdict
    from registry.reports.cases import Case


def write(report: CheckReport, policy: Policy) -> str:
    """An error of the format is what no test said: a doubt, where doubts fail."""
    suites = [(verdict, list(cases_of(verdict, policy))) for verdict in report.results]
    cases = [case for _, found in suites for case in found]
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', f'<testsuites name="adapters check"{_counts(cases, policy)}>']
    for verdict, found in suites:
        lines += _suite(verdict, found, policy)
    return "\n".join([*lines, "</testsuites>", ""])


def _suite(verdict: Verdict, cases: list[Case], policy: Policy) -> Iterator[str]:
    yield f"  <testsuite name={_quoted(f'{verdict.adapter} {verdict.question}')}{_counts(cases, policy)}>"
    for case in cases:
        yield from _case(case, policy)
    yield "  </testsuite>"


def _case(case: Case, policy: Policy) -> Iterator[str]:
    name = f'name={_quoted(case.rule)} classname={_quoted(f"{case.verdict.adapter}.{case.verdict.question}")} time="0"'
    inside = [*_inside(case, policy)]
    if inside:
        yield f"    <testcase {name}>"
        yield from inside
        yield "    </testcase>"
    else:
        yield f"    <testcase {name}/>"


def _inside(case: Case, policy: Policy) -> Iterator[str]:
    told = [finding for finding in case.findings if finding.severity != "skipped"]
    # What `one_line` leaves are printable characters, and XML can hold all of those.
    text, element = escape("\n".join(_lines(case))), _element(case, policy)
    if element:
        first = told[0].message if told else ""
        yield f"      <{element} message={_quoted(first)} type={_quoted(case.rule)}>{text}</{element}>"
    elif case.outcome in ("accepted", "skipped"):
        why = "; ".join(f"accepted: {one.reason}" for one in case.accepted) or case.findings[0].message
        yield f"      <skipped message={_quoted(why)}/>"
    elif told:
        yield f"      <system-out>{text}</system-out>"


def _lines(case: Case) -> Iterator[str]:
    for finding in case.findings:
        place = f" [{one_line(finding.where)}]" if finding.where else ""
        yield f"{finding.severity}: {one_line(finding.message)}{place}"
        if finding.fix:
            yield f"fix: {one_line(finding.fix)}"


def _element(case: Case, policy: Policy) -> str:
    if case.outcome == "failed":
        return "failure"
    return "error" if case.outcome == "doubtful" and policy.inconclusive == "fail" else ""


def _counts(cases: Iterable[Case], policy: Policy) -> str:
    found = list(cases)
    failures = sum(_element(case, policy) == "failure" for case in found)
    errors = sum(_element(case, policy) == "error" for case in found)
    skipped = sum(case.outcome in ("accepted", "skipped") for case in found)
    return f' tests="{len(found)}" failures="{failures}" errors="{errors}" skipped="{skipped}" time="0"'


def _quoted(text: str) -> str:
    return '"' + escape(one_line(text), {'"': "&quot;"}) + '"'
