"""`push`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from registry.cli.command import Verb
from registry.cli.params import (
    FilledPath,
    Reference,
    Word,
    alias_option,
    allow_option,
    commit_option,
    data_option,
    licence_option,
    metric_option,
    run_option,
    tag_option,
)
from registry.cli.shown.findings import finding_lines
from registry.cli.shown.output import emit, note
from registry.cli.shown.progress import bars
from registry.cli.shown.text import fields, printable
from registry.settings import one_blas_thread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry.cli.invocation import Invocation
    from registry.records.draft import Relation
    from registry.results import MergeResult, PushResult

RELATIONS = ("finetuned_from", "converted_from", "merged_from")


@click.command(
    cls=Verb,
    examples=[
        "adapters push ./out team/sql --alias prod --tag task=sql --metric accuracy=0.91",
        "adapters push ./out team/sql --base llama-3-8b --parent team/sql@3 --git-commit 8c0f1d2 --run-id wandb-3f2a",
        "adapters push hf://org/sql-lora@main team/sql --licence apache-2.0",
    ],
)
@click.argument("path", type=FilledPath())
@click.argument("name", type=Reference())
@alias_option
@tag_option
@metric_option
@click.option("--message", metavar="TEXT", help="What changed, in words.")
@click.option("--base", type=Word(), metavar="BASE", help="The base model: a name given to `base add`, or a folder.")
@click.option(
    "--parent",
    "parents",
    multiple=True,
    type=Reference(),
    metavar="REF",
    help="A version this one comes from. Repeatable.",
)
@click.option(
    "--relation",
    type=click.Choice(RELATIONS),
    default="finetuned_from",
    show_default=True,
    help="How it comes from its parents.",
)
@click.option("--include", multiple=True, metavar="GLOB", help="Take these files too. Repeatable.")
@licence_option
@commit_option
@run_option
@data_option
@allow_option
@click.pass_obj
def push(
    invocation: Invocation,
    path: str,
    name: str,
    *,
    aliases: tuple[str, ...],
    tags: dict[str, str],
    metrics: dict[str, float],
    message: str | None,
    base: str | None,
    parents: tuple[str, ...],
    relation: Relation,
    include: tuple[str, ...],
    licence: str | None,
    git_commit: str | None,
    run_id: str | None,
    data_digest: str | None,
    allow: tuple[str, ...],
) -> None:
    """Publish an adapter folder as the next version of NAME.

    PATH is a folder, or hf://org/name on the Hub, with /folder and @REV where needed. The files are checked first; a
    rule that says error refuses the push (exit code 1, findings on stdout) and nothing is written. Content that is
    there already gives the version that holds it.
    """
    one_blas_thread()
    with bars(invocation) as progress:
        result = invocation.registry.push(
            path,
            name,
            aliases=aliases,
            tags=tags,
            metrics=metrics,
            message=message,
            base=base,
            parents=parents,
            relation=relation,
            include=include,
            licence=licence,
            git_commit=git_commit,
            run_id=run_id,
            data_digest=data_digest,
            allow=allow,
            progress=progress,
        )
    emit_pushed(invocation, result)


def emit_pushed(invocation: Invocation, result: PushResult) -> None:
    """What a push did, its notes on stderr."""
    for text in result.notes:
        note(text)
    emit(invocation, result, human=lambda: pushed_lines(invocation, result), quiet=lambda: [result.ref])


def pushed_lines(invocation: Invocation, result: PushResult | MergeResult) -> Iterator[str]:
    """The version, what was left out, what the rules said."""
    yield f"{'pushed' if result.created else 'unchanged'}  {printable(result.ref or result.name)}"
    yield from fields({"digest": result.digest, "tensors": result.tensors_digest})
    if result.left_out:
        yield f"left out: {', '.join(printable(name) for name in result.left_out)}"
    yield from finding_lines(invocation, result.findings)
