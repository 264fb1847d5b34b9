"""`check`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from registry.checks.check import check as run_check
from registry.checks.check import check_request, needs_catalog
from registry.cli.command import Verb
from registry.cli.params import Reference, Word
from registry.cli.shown.findings import accepted_lines, finding_lines, rules_broken
from registry.cli.shown.output import emit, note, styled
from registry.cli.shown.progress import bars
from registry.cli.shown.reports import deliver
from registry.cli.shown.text import printable
from registry.findings.verdicts import Policy
from registry.project import LOCK
from registry.reports import FORMATS, parse_wanted
from registry.settings import one_blas_thread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry.checks.check import CheckRequest
    from registry.cli.invocation import Invocation
    from registry.findings.verdicts import CheckReport, Doubt, FailOn

_COLOURS: dict[str, str] = {"fail": "red", "warn": "yellow", "inconclusive": "yellow", "pass": "green"}


@click.command(
    cls=Verb,
    examples=[
        "adapters check ./out/sql-lora --base ./Llama-3-8B --for vllm",
        "adapters check team/a team/b --together hotswap --together merge:ties --fail-on warning",
        "adapters check --all --for vllm@0.33.0:max_lora_rank=64 --report junit=check.xml",
    ],
)
@click.argument("targets", type=Reference(), nargs=-1, metavar="[REF-or-PATH]...")
@click.option("--base", type=Word(), metavar="BASE", help="Check against this base model: a name or a folder.")
@click.option(
    "--for",
    "for_engines",
    multiple=True,
    type=Word(),
    metavar="ENGINE",
    help="Will this serving engine load it and compute its function? ENGINE[@VERSION][:limit=value]. Repeatable.",
)
@click.option(
    "--together",
    multiple=True,
    metavar="QUESTION",
    help="Ask of all of them at once: merge, merge:METHOD, hotswap or batch. Repeatable.",
)
@click.option(
    "--with", "with_refs", type=Reference(), multiple=True, metavar="REF-or-PATH", help="Another to meet. Repeatable."
)
@click.option("--all", "everything", is_flag=True, help="Every live version; what today's rules answered stays.")
@click.option("--locked", is_flag=True, help="Exit 5 where a REF means something else than the lock file says.")
@click.option("--lock", type=Word(), metavar="FILE", help=f"The lock file of --locked; {LOCK} without.")
@click.option("--baseline", type=Word(), metavar="FILE", help="Findings that are accepted, with reasons.")
@click.option("--write-baseline", is_flag=True, help="Write what is found into the baseline; add the reasons there.")
@click.option(
    "--report",
    "reports",
    multiple=True,
    metavar="FORMAT[=FILE]",
    help=f"Write a report: {', '.join(FORMATS)}. Repeatable; one without =FILE is what stdout gets.",
)
@click.option(
    "--fail-on",
    type=click.Choice(["error", "warning"]),
    default="error",
    show_default=True,
    help="The severity that makes the exit code 1.",
)
@click.option(
    "--inconclusive",
    type=click.Choice(["fail", "allow"]),
    default="fail",
    show_default=True,
    help="Whether what no table answers makes the exit code 3.",
)
@click.pass_obj
def check(
    invocation: Invocation,
    /,
    targets: tuple[str, ...],
    *,
    locked: bool,
    lock: str | None,
    write_baseline: bool,
    reports: tuple[str, ...],
    fail_on: FailOn,
    inconclusive: Doubt,
    **asked: Any,
) -> int:
    """Check adapters against the rules, and against a base.

    A PATH starts with / ./ ../ or ~; anything else is a REF. Exit code 1 for findings, 3 for inconclusive, 5 where
    --locked does not hold. Answers about versions are kept: `list --check vllm=pass`.
    """
    if lock is not None and not locked:
        raise click.UsageError("--lock goes with --locked")
    wanted, policy = parse_wanted(reports), Policy(fail_on, inconclusive)
    request = check_request(targets, lock=(lock or LOCK) if locked else None, new_baseline=write_baseline, **asked)
    one_blas_thread()
    report = _run(invocation, request)
    if not deliver(invocation, report, policy, wanted):
        emit(invocation, report, human=lambda: _lines(invocation, report), quiet=lambda: rules_broken(report.findings))
    if write_baseline and request.baseline is not None:
        from registry.checks.baseline import write_baseline as save_baseline

        count = save_baseline(report, request.baseline)
        note(f"accepted now: {count} more, in {request.baseline.place}; write down why in each reason")
        return 0
    return policy.exit_code(report)


def _run(invocation: Invocation, request: CheckRequest) -> CheckReport:
    """Without the database layer where nothing asks for it: importing that takes longer than most checks."""
    if not needs_catalog(request, invocation.settings):
        return run_check(request, None)
    with bars(invocation) as progress:
        return invocation.registry.check_request(request, progress=progress, processes=min(os.cpu_count() or 1, 8))


def _in_words(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {number}" for name, number in value.items())
    return "-" if value is None else str(value)


def _lines(invocation: Invocation, report: CheckReport) -> Iterator[str]:
    asked = [(verdict.status, verdict.adapter, verdict.question) for verdict in report.results]
    several = len({question for _, _, question in asked}) > 1
    rows = asked if several else [(status, target, "") for target, status in report.targets.items()]
    room = max((len(status) for status, _, _ in rows), default=0)
    for status, target, question in rows:
        of = f"  {printable(question)}" if question else ""
        yield f"{styled(invocation, status.ljust(room), colour=_COLOURS[status])}  {printable(target)}{of}"
    yield from finding_lines(invocation, report.findings)
    for verdict in report.results:
        for name, value in verdict.numbers.items():
            yield f"{printable(verdict.question)} {name}: {printable(_in_words(value))}"
    yield from accepted_lines(report.accepted)
