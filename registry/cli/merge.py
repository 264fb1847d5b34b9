"""`merge`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import click

from registry.cli.command import Verb
from registry.cli.output import emit, note
from registry.cli.params import (
    Rank,
    Reference,
    Weights,
    Word,
    alias_option,
    allow_option,
    commit_option,
    licence_option,
    metric_option,
    run_option,
    tag_option,
)
from registry.cli.progress import bars
from registry.cli.push import pushed_lines
from registry.cli.text import fields, number, percent, table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from registry.cli.invocation import Invocation
    from registry.results import MergeResult

_WORST = 5  # modules shown to a person; `show --format json` has all


@click.command(
    cls=Verb,
    examples=[
        "adapters merge team/sql team/chat --combination svd --into team/both",
        "adapters merge team/sql@3 team/chat@prod --weights 0.7,0.3 --combination cat --into team/both --alias canary",
        "adapters merge team/a team/b --combination svd --rank 16 --into team/ab --dry-run",
    ],
)
@click.argument("refs", type=Reference(), nargs=-1, required=True, metavar="REF...")
@click.option("--weights", type=Weights(), metavar="W,W", help="One number a REF, of any sign. Default: 1/n each.")
@click.option(
    "--combination", type=Word(), metavar="METHOD", default="svd", show_default=True, help="cat, linear or svd."
)
@click.option("--rank", type=Rank(), metavar="N|max", help="Rank of the result; max is the exact one.")
@click.option("--dtype", metavar="D", help="Dtype of the result. Default: the widest parent's.")
@click.option("--into", required=True, type=Reference(), metavar="NAME", help="The adapter that gets the new version.")
@alias_option
@tag_option
@metric_option
@click.option("--message", metavar="TEXT", help="What this merge is for, in words.")
@click.option("--dry-run", is_flag=True, help="Compute the report and publish nothing.")
@click.option("--assume-same-base", is_flag=True, help="Merge although the parents name different bases.")
@licence_option
@commit_option
@run_option
@allow_option
@click.pass_obj
def merge(
    invocation: Invocation,
    refs: tuple[str, ...],
    *,
    weights: tuple[float, ...] | None,
    combination: str,
    rank: int | Literal["max"] | None,
    dtype: str | None,
    into: str,
    aliases: tuple[str, ...],
    tags: dict[str, str],
    metrics: dict[str, float],
    message: str | None,
    dry_run: bool,
    assume_same_base: bool,
    licence: str | None,
    git_commit: str | None,
    run_id: str | None,
    allow: tuple[str, ...],
) -> None:
    """Merge versions into a new one, with a report of what was kept.

    cat and linear keep the weighted sum exactly, at the sum of the ranks; svd is its best approximation of a
    given rank. Needs the engine extra: pip install 'adapter-registry[engine]'.
    """
    with bars(invocation) as progress:
        result = invocation.registry.merge(
            refs,
            weights=weights,
            combination=combination,
            rank=rank,
            dtype=dtype,
            into=into,
            aliases=aliases,
            tags=tags,
            metrics=metrics,
            message=message,
            dry_run=dry_run,
            assume_same_base=assume_same_base,
            licence=licence,
            git_commit=git_commit,
            run_id=run_id,
            allow=allow,
            progress=progress,
        )
    for text in result.notes:
        note(text)
    emit(
        invocation,
        result,
        human=lambda: _lines(invocation, result),
        quiet=lambda: [result.ref or result.name],
    )


def report_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """The report of a merge: the whole, each parent's part, the modules that lost most."""
    yield from fields(
        {
            "method": str(report.get("method", "-")),
            "rank": number(report.get("rank")),
            "dtype": report.get("dtype"),
            "modules": number(report.get("modules")),
            "energy kept": percent(report.get("energy_kept")),
            "relative error": number(report.get("relative_error")),
        }
    )
    yield ""
    header = ("PARENT", "WEIGHT", "NORM", "SHARE", "COSINE", "RETENTION")
    yield from table(
        header, [_parent(place, item) for place, item in enumerate(report["parents"], 1)], right=header[1:]
    )
    yield from _worst(report.get("per_module") or ())


def _lines(invocation: Invocation, result: MergeResult) -> Iterator[str]:
    if result.ref is None:
        yield "dry run: nothing was published"
    else:
        yield from pushed_lines(invocation, result)
    yield ""
    yield from report_lines(result.report)


def _parent(place: int, parent: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        str(parent.get("ref") or parent.get("digest") or place),
        number(parent.get("weight")),
        number(parent.get("norm")),
        percent(parent.get("share")),
        number(parent.get("cosine")),
        number(parent.get("retention")),
    )


def _worst(modules: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    lossy = [module for module in modules if (module.get("relative_error") or 0) > 0]
    shown = sorted(lossy, key=lambda module: float(module["relative_error"]), reverse=True)[:_WORST]
    if shown:
        yield ""
        rows = [
            (
                str(module["name"]),
                number(module.get("rank")),
                percent(module.get("energy_kept")),
                number(module.get("relative_error")),
            )
            for module in shown
        ]
        yield from table(
            ("LEAST EXACT MODULES", "RANK", "ENERGY KEPT", "RELATIVE ERROR"),
            rows,
            right=("RANK", "ENERGY KEPT", "RELATIVE ERROR"),
        )
