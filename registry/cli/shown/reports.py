"""Reports of a check go where they were asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.cli.shown.output import write
from registry.errors import UsageError
from registry.reports import writer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from registry.cli.invocation import Invocation
    from registry.findings.verdicts import CheckReport, Policy
    from registry.reports import Wanted


def deliver(invocation: Invocation, report: CheckReport, policy: Policy, wanted: Sequence[Wanted]) -> bool:
    """Write every report; whether one of them was for stdout. `github` writes the step's summary too, where there is
    one.
    """
    for one in wanted:
        text = writer(one.form)(report, policy)
        if one.file is None:
            write(text)
        else:
            _save(one.file, text, append=False)
        if one.form == "github" and invocation.settings.step_summary is not None:
            _save(invocation.settings.step_summary, writer("markdown")(report, policy), append=True)
    return any(one.file is None for one in wanted)


def _save(file: Path, text: str, *, append: bool) -> None:
    try:
        with file.open("a" if append else "w", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        raise UsageError(f"--report: {file}: cannot be written: {error.strerror or error}") from None
