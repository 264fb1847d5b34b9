"""`merge`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from registry.cli.command import Verb
from registry.cli.params import (
    Reference,
    alias_option,
    allow_option,
    commit_option,
    licence_option,
    metric_option,
    run_option,
    tag_option,
)
from registry.cli.shown.output import emit, note
from registry.cli.shown.progress import bars
from registry.cli.shown.report import report_lines
from registry.cli.shown.text import fields
from registry.cli.verbs.merge_options import merge_options
from registry.cli.verbs.push import pushed_lines
from registry.merges.plot import check_plot, draw

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from registry.cli.invocation import Invocation
    from registry.results import MergeResult, RerunResult


@click.command(
    cls=Verb,
    examples=[
        "adapters merge team/sql@3 team/chat@prod --weights 0.7,0.3 --combination svd --into team/both --alias canary",
        "adapters merge team/a team/b --combination ties --density 0.2 --energy 0.99 --into team/ab --dry-run",
        "adapters merge --rerun team/ab@3",
    ],
)
@click.argument("refs", type=Reference(), nargs=-1, metavar="[REF]...")
@merge_options
@alias_option
@tag_option
@metric_option
@click.option("--message", metavar="TEXT", help="What this merge is for, in words.")
@licence_option
@commit_option
@run_option
@allow_option
@click.pass_obj
def merge(
    invocation: Invocation,
    /,
    refs: tuple[str, ...],
    *,
    into: str | None,
    rerun: str | None,
    weights_grid: tuple[tuple[float, ...], ...] | None,
    report_plot: str | None,
    **options: Any,
) -> int:
    """Merge versions into a new one, with a report of what was kept.

    cat and linear keep the weighted sum exactly, at the sum of the ranks; svd is its best approximation of a
    given rank; docs/methods has a page for every method. Needs the engine extra:
    pip install 'adapter-registry[engine]'.
    """
    if rerun is not None:
        where = {name: options.pop(name) for name in ("base", "jobs", "device")}
        others = (*refs, into, weights_grid is not None, report_plot, *options.values())
        return _rerun(invocation, rerun, where, others=others)
    if into is None:
        raise _misused("expected --into NAME, the adapter that gets the new version")
    picture = None if report_plot is None else _picture(report_plot, weights_grid)
    given = {name: value for name, value in options.items() if value is not None}
    with bars(invocation) as progress:
        results = _merge(invocation, refs, weights_grid, into=into, progress=progress, **given)
    for result in results:
        for text in result.notes:
            note(text)
    emit(
        invocation,
        results if weights_grid is not None else results[0],
        human=lambda: _all_lines(invocation, results),
        quiet=lambda: [result.ref or result.name for result in results],
    )
    if picture is not None:
        draw(results[0].report, picture)
    return 0


def _merge(
    invocation: Invocation, refs: tuple[str, ...], grid: tuple[tuple[float, ...], ...] | None, **options: Any
) -> tuple[MergeResult, ...]:
    if grid is None:
        return (invocation.registry.merge(refs, **options),)
    return invocation.registry.merge_grid(refs, weights_grid=grid, **options)


def _picture(path: str, grid: tuple[tuple[float, ...], ...] | None) -> Path:
    """Where the report is drawn, found usable before anything is merged."""
    if grid is not None:
        raise _misused("--report-plot draws the report of one merge, --weights-grid makes several")
    to = Path(path).expanduser()
    check_plot(to)
    return to


def _misused(reason: str) -> click.UsageError:
    return click.UsageError(reason, ctx=click.get_current_context())


def _rerun(invocation: Invocation, ref: str, where: Mapping[str, Any], others: Iterable[object]) -> int:
    if any(value is not None and value is not False and value not in ((), {}) for value in others):
        raise _misused("--rerun takes all from the recipe: give only --base, --jobs or --device beside it")
    with bars(invocation) as progress:
        result = invocation.registry.rerun(ref, progress=progress, **where)
    emit(invocation, result, human=lambda: _rerun_lines(result), quiet=lambda: [result.found])
    return 0 if result.same else 1


def _rerun_lines(result: RerunResult) -> Iterator[str]:
    yield f"{result.ref}: the merge done again gives {'the same' if result.same else 'OTHER'} tensors"
    yield from fields({"published": result.expected, "again": result.found})
    for name, (then, now) in result.changed.items():
        yield f"{name} was {then or 'absent'} then and is {now or 'absent'} now"


def _all_lines(invocation: Invocation, results: Sequence[MergeResult]) -> Iterator[str]:
    for place, result in enumerate(results):
        if place:
            yield ""
        yield from _lines(invocation, result)


def _lines(invocation: Invocation, result: MergeResult) -> Iterator[str]:
    if result.ref is None:
        yield "dry run: nothing was published"
    else:
        yield from pushed_lines(invocation, result)
    yield ""
    yield from report_lines(result.report)
