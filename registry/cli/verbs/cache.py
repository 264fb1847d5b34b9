"""`cache ls`, `cache prune`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from registry.cli.command import Verb, Verbs
from registry.cli.shown.output import emit, note
from registry.cli.shown.text import moment, plural, printable, size, table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from registry.cli.invocation import Invocation
    from registry.results import CacheEntry, PruneResult


@click.group(cls=Verbs, examples=["adapters cache ls", "adapters cache prune --older-than 30d --dry-run"])
def cache() -> None:
    """Pulled versions that are kept on this machine.

    They lie in ADAPTERS_CACHE, or in the home's pulled/. Several users may share the folder.
    """


@cache.command("ls", examples=["adapters cache ls", "adapters cache ls --format json"])
@click.pass_obj
def ls(invocation: Invocation) -> None:
    """List what is kept, the version used last first.

    Nothing is hashed here; every pull hashes what it hands out.
    """
    entries = invocation.registry.cache()
    if any(entry.refs is None for entry in entries):
        note("the catalog cannot be asked which versions these are")
    emit(invocation, entries, human=lambda: _rows(entries), quiet=lambda: [entry.digest for entry in entries])


@cache.command(
    "prune",
    cls=Verb,
    examples=[
        "adapters cache prune --older-than 30d",
        "adapters cache prune --max-size 50GB --keep 5",
        "adapters cache prune --older-than 0 --dry-run",
    ],
)
@click.option("--older-than", metavar="D", help="Remove what was not used for so long: 0, 90s, 15m, 12h, 7d.")
@click.option("--max-size", metavar="SIZE", help="Remove what was not used for longest until the rest fits: 50GB.")
@click.option(
    "--keep", type=click.IntRange(min=0), metavar="N", help="Spare the N used last; alone: remove all others."
)
@click.option("--dry-run", is_flag=True, help="Say what would be removed and remove nothing.")
@click.pass_obj
def prune(
    invocation: Invocation, *, older_than: str | None, max_size: str | None, keep: int | None, dry_run: bool
) -> None:
    """Remove pulled versions, those unused for longest first.

    Without an option only leftovers of interrupted pulls go. What a pull is fetching or handing out stays. A folder
    that was handed out earlier goes all the same: files that a service holds open live on, its path does not.
    """
    result = invocation.registry.prune_cache(older_than=older_than, max_size=max_size, keep=keep, dry_run=dry_run)
    emit(invocation, result, human=lambda: _lines(result), quiet=lambda: result.removed)


def _rows(entries: Sequence[CacheEntry]) -> Iterator[str]:
    rows = [
        (entry.digest, size(entry.size), str(entry.files), moment(entry.last_used), entry.state, _refs(entry))
        for entry in entries
    ]
    yield from table(("DIGEST", "SIZE", "FILES", "USED", "STATE", "VERSIONS"), rows, right=("SIZE", "FILES"))


def _refs(entry: CacheEntry) -> str:
    return "?" if entry.refs is None else " ".join(entry.refs) or "-"


def _lines(result: PruneResult) -> Iterator[str]:
    verb = "would remove" if result.dry_run else "removed"
    what = "pulled version"
    yield f"{verb} {plural(result.entries, what)}, {size(result.bytes)} ({plural(result.temporary, 'temporary file')})"
    for reason, count in result.kept.items():
        yield f"kept {count}: {printable(reason)}"
