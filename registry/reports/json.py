"""The document that `--format json` prints."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from registry.findings.verdicts import CheckReport, Policy


def write(report: CheckReport, _policy: Policy) -> str:
    """One ASCII-safe object."""
    return json.dumps(report.as_json(), indent=2, ensure_ascii=True) + "\n"
