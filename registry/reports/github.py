"""GitHub's workflow commands: an annotation for every finding. The step's summary is the Markdown report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.reports.words import one_line
from registry.values.refs import is_path

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.compat.finding import Finding
    from registry.findings.verdicts import CheckReport, Policy

_COMMANDS = {"error": "error", "warning": "warning", "info": "notice"}
# A workflow command ends with its line, a property with a comma; GitHub reads the percent codes back.
_IN_MESSAGE = str.maketrans({"%": "%25", "\r": "%0D", "\n": "%0A"})
_IN_PROPERTY = str.maketrans({"%": "%25", "\r": "%0D", "\n": "%0A", ":": "%3A", ",": "%2C"})


def write(report: CheckReport, policy: Policy) -> str:
    """The lines that the runner turns into annotations; what is accepted is a notice."""
    doubt = "error" if policy.inconclusive == "fail" else "warning"
    commands = {**_COMMANDS, "inconclusive": doubt}
    lines = [*_annotations(report, commands)]
    return "".join(f"{line}\n" for line in [*lines, f"adapters check: {report.status}"])


def _annotations(report: CheckReport, commands: dict[str, str]) -> Iterator[str]:
    for finding in report.findings:
        if finding.severity in commands:
            yield _command(commands[finding.severity], finding, f"; fix: {finding.fix}" if finding.fix else "")
    for one in report.accepted:
        yield _command("notice", one.finding, f"; accepted: {one.reason}")


def _command(command: str, finding: Finding, more: str) -> str:
    properties = {"title": finding.rule}
    if is_path(finding.target):
        properties["file"] = f"{finding.target.removeprefix('./').rstrip('/')}/adapter_config.json"
    joined = ",".join(f"{key}={one_line(value).translate(_IN_PROPERTY)}" for key, value in sorted(properties.items()))
    message = one_line(f"{finding.target}: {finding.message}{more}").translate(_IN_MESSAGE)
    return f"::{command} {joined}::{message}"
