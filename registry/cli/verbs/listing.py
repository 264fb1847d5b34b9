"""`list`, also called `ls`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from registry.cli.command import Verb
from registry.cli.params import KeyValue, Word, pairs_option
from registry.cli.shown.output import emit, note
from registry.cli.shown.text import moment, pairs, size, table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from registry.cli.invocation import Invocation
    from registry.results import VersionInfo

HEADER = ("REF", "TYPE", "RANK", "SIZE", "BASE", "ALIASES", "TAGS", "METRICS", "CREATED")


@click.command(
    "list",
    cls=Verb,
    examples=[
        "adapters list --name 'team/*' --rank 8..32 --tag task=sql",
        "adapters list --licence none --all-versions --limit 0",
        "adapters list --base llama-3-8b --created 7d --sort created:desc --limit 20 --format json",
    ],
)
@click.option("--name", metavar="GLOB", help="Names that match, such as 'team/*'.")
@click.option("--base", type=Word(), metavar="BASE", help="Adapters of this base model, by any of its names.")
@click.option("--type", "peft_type", type=Word(), metavar="TYPE", help="The PEFT method, such as LORA.")
@click.option("--rank", metavar="LO..HI", help="Largest rank of a module, such as 8..32 or 16.")
@click.option("--size", "size_", metavar="LO..HI", help="Bytes of all files, such as 1MB..1GB.")
@click.option("--created", metavar="LO..HI", help="2026-01-01..2026-02-01, or 7d for the last 7 days.")
@pairs_option("--tag", "tags", kind=KeyValue(), metavar="KEY=VALUE", text="With this label.")
@click.option("--alias", type=Word(), metavar="ALIAS", help="Versions that this alias names; latest is built in.")
@pairs_option("--metric", "metrics", kind=KeyValue(), metavar="N=LO..HI", text="By measurement.")
@click.option("--check", type=Word(), metavar="ENGINE=STATUS", help="By the outcome of a check.")
@click.option("--licence", "--license", metavar="ID", help="Under this licence; none for versions without one.")
@click.option("--git-commit", metavar="SHA", help="Made by this commit; its first digits will do.")
@click.option("--run-id", metavar="ID", help="Made by this run.")
@click.option("--data-digest", metavar="D", help="Trained on this data.")
@click.option("--pushed-by", metavar="WHO", help="Pushed by this user.")
@click.option(
    "--sort",
    type=Word(),
    metavar="KEY[:desc]",
    default="name",
    help="name (default), created, size, rank, version or metric:NAME.",
)
@click.option("--limit", type=click.IntRange(min=0), default=100, show_default=True, help="Rows at most; 0 for all.")
@click.option("--cursor", metavar="C", help="Continue after the row that printed this cursor.")
@click.option("--all-versions", is_flag=True, help="Every version rather than the newest of each adapter.")
@click.pass_obj
def list_(
    invocation: Invocation,
    *,
    name: str | None,
    base: str | None,
    peft_type: str | None,
    rank: str | None,
    size_: str | None,
    created: str | None,
    tags: dict[str, str],
    alias: str | None,
    metrics: dict[str, str],
    check: str | None,
    licence: str | None,
    git_commit: str | None,
    run_id: str | None,
    data_digest: str | None,
    pushed_by: str | None,
    sort: str,
    limit: int,
    cursor: str | None,
    all_versions: bool,
) -> None:
    """List versions, the newest of each adapter.

    Filters narrow the list together. `ls` is the same command.
    """
    found = invocation.registry.list(
        name=name,
        base=base,
        peft_type=peft_type,
        rank=rank,
        size=size_,
        created=created,
        tags=tags,
        alias=alias,
        metrics=metrics,
        check=check,
        licence=licence,
        git_commit=git_commit,
        run_id=run_id,
        data_digest=data_digest,
        pushed_by=pushed_by,
        sort=sort,
        limit=limit,
        cursor=cursor,
        all_versions=all_versions,
    )
    emit_versions(invocation, found)
    if limit and len(found) == limit and found[-1].cursor:
        note(f"there may be more: continue with --cursor {found[-1].cursor}")


def emit_versions(invocation: Invocation, found: Sequence[VersionInfo]) -> None:
    """Versions as a table, a JSON array, or refs; that there are none is said on stderr."""
    if not found and invocation.settings.output == "human":
        note("no versions match")
    emit(invocation, found, human=lambda: version_lines(found), quiet=lambda: [info.ref for info in found])
    stale = sum(info.check is not None and info.check.stale for info in found)
    if stale:
        note(f"{stale} of these answers are stale: the rules or a base changed; adapters check --all asks again")


def version_lines(found: Sequence[VersionInfo]) -> Iterator[str]:
    """The table of versions; nothing at all for none."""
    if found:
        yield from table(HEADER, [_cells(info) for info in found], right=("RANK", "SIZE"))


def _cells(info: VersionInfo) -> tuple[str, ...]:
    return (
        f"{info.ref} (deleted)" if info.deleted else info.ref,
        info.peft_type,
        "-" if info.rank is None else str(info.rank),
        size(info.size),
        info.base or "-",
        " ".join(info.aliases) or "-",
        pairs(info.tags) or "-",
        pairs(info.metrics) or "-",
        moment(info.created_at),
    )
