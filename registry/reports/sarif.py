"""SARIF 2.1.0, as GitHub's code scanning and other viewers read it."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from registry.reports.words import one_line
from registry.values.refs import is_path

if TYPE_CHECKING:
    from engine.compat.finding import Finding
    from registry.findings.verdicts import Accepted, CheckReport, Policy, Verdict

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_LEVELS = {"error": "error", "inconclusive": "warning", "warning": "warning", "info": "note"}


def write(report: CheckReport, _policy: Policy) -> str:
    """One run; a finding that a baseline accepts is a suppressed result."""
    rules = _rules(report)
    places = {rule: index for index, rule in enumerate(rules)}
    driver = {"name": "adapters", "rules": [*rules.values()]}
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "results": [
            one | {"ruleIndex": places[one["ruleId"]]} for verdict in report.results for one in _results(verdict)
        ],
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2, ensure_ascii=True) + "\n"


def _rules(report: CheckReport) -> dict[str, dict[str, Any]]:
    """Descriptors by id: the rules that were asked, then ids that findings alone name."""
    found: dict[str, dict[str, Any]] = {}
    for verdict in report.results:
        for rule in verdict.rules:
            found.setdefault(rule.id, {"id": rule.id, "shortDescription": {"text": one_line(rule.summary) or rule.id}})
        for finding in (*verdict.findings, *(one.finding for one in verdict.accepted)):
            found.setdefault(finding.rule, {"id": finding.rule})
    return found


def _results(verdict: Verdict) -> list[dict[str, Any]]:
    told = [finding for finding in verdict.findings if finding.severity in _LEVELS]
    return [_result(verdict, finding, None) for finding in told] + [
        _result(verdict, one.finding, one) for one in verdict.accepted
    ]


def _result(verdict: Verdict, finding: Finding, accepted: Accepted | None) -> dict[str, Any]:
    told = f"{finding.target}: {finding.message}" + (f"; fix: {finding.fix}" if finding.fix else "")
    found: dict[str, Any] = {
        "ruleId": finding.rule,
        "level": _LEVELS.get(finding.severity, "none"),
        "message": {"text": one_line(told)},
        "locations": [_location(finding)],
        "partialFingerprints": {"adapters/v1": _fingerprint(verdict, finding)},
        "properties": {"question": one_line(verdict.question), "severity": finding.severity},
    }
    if accepted is not None:
        found["suppressions"] = [{"kind": "external", "justification": one_line(accepted.reason)}]
    return found


def _location(finding: Finding) -> dict[str, Any]:
    """A path is a file of the checkout, a reference stands for itself: GitHub takes no document in which one result has
    no file, there or not.
    """
    target = finding.target
    place = f"{target.removeprefix('./').rstrip('/')}/adapter_config.json" if is_path(target) else target
    name = one_line(finding.where or target)
    return {
        # A lone surrogate stands for a byte that is no UTF-8.
        "physicalLocation": {"artifactLocation": {"uri": quote(place.encode("utf-8", "surrogateescape"))}},
        "logicalLocations": [{"fullyQualifiedName": f"{one_line(target)}#{name}", "name": name}],
    }


def _fingerprint(verdict: Verdict, finding: Finding) -> str:
    parts = (verdict.question, finding.rule, finding.target, finding.where or finding.message)
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()
