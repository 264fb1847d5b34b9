"""What a rule says about an adapter: one frozen value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Severity = Literal["error", "inconclusive", "warning", "info", "skipped"]
Status = Literal["pass", "warn", "inconclusive", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One statement of one rule. `where` is a tensor, module, config key or file; `fix` a command where one exists."""

    rule: str
    severity: Severity
    message: str
    target: str = "adapter"
    where: str | None = None
    fix: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The JSON object of design section 6."""
        return {
            "rule": self.rule,
            "severity": self.severity,
            "target": self.target,
            "message": self.message,
            "where": self.where,
            "fix": self.fix,
        }


def worst_status(findings: tuple[Finding, ...] | list[Finding]) -> Status:
    """Fail for any error, else inconclusive, else warn for any warning, else pass; the others do not count."""
    severities = {finding.severity for finding in findings}
    if "error" in severities:
        return "fail"
    if "inconclusive" in severities:
        return "inconclusive"
    return "warn" if "warning" in severities else "pass"
