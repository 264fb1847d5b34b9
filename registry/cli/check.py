"""`check`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from registry.cli.command import Verb
from registry.cli.findings import finding_lines, rules_broken
from registry.cli.output import emit, styled
from registry.cli.params import Reference, Word
from registry.cli.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.compat.finding import Status
    from registry.cli.invocation import Invocation
    from registry.results import CheckReport

_COLOURS: dict[str, str] = {"fail": "red", "warn": "yellow", "inconclusive": "yellow", "pass": "green"}


@click.command(
    cls=Verb,
    examples=[
        "adapters check team/sql@prod",
        "adapters check ./out/sql-lora --base ./Llama-3-8B",
        "adapters check team/a team/b --fail-on warning --format json",
    ],
)
@click.argument("targets", type=Reference(), nargs=-1, required=True, metavar="REF-or-PATH...")
@click.option("--base", type=Word(), metavar="BASE", help="Check against this base model: a name or a folder.")
@click.option(
    "--fail-on",
    type=click.Choice(["error", "warning"]),
    default="error",
    show_default=True,
    help="The severity that makes the exit code 1.",
)
@click.pass_obj
def check(invocation: Invocation, targets: tuple[str, ...], *, base: str | None, fail_on: str) -> int:
    """Check adapters against the rules, and against a base.

    A PATH starts with / ./ ../ or ~; anything else is a REF. Exit code 1 for findings, 3 for inconclusive.
    """
    report = invocation.registry.check(*targets, base=base)
    emit(invocation, report, human=lambda: _lines(invocation, report), quiet=lambda: rules_broken(report.findings))
    return exit_code(report.status, fail_on=fail_on)


def exit_code(status: Status, *, fail_on: str) -> int:
    """1 for a failure, 3 for inconclusive, else 0; with `--fail-on warning` a warning is a failure."""
    failing = ("fail", "warn") if fail_on == "warning" else ("fail",)
    return 1 if status in failing else 3 if status == "inconclusive" else 0


def _lines(invocation: Invocation, report: CheckReport) -> Iterator[str]:
    room = max((len(status) for status in report.targets.values()), default=0)
    for target, status in report.targets.items():
        yield f"{styled(invocation, status.ljust(room), colour=_COLOURS[status])}  {printable(target)}"
    yield from finding_lines(invocation, report.findings)
