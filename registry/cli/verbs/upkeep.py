"""`verify`, `fsck`, `gc`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from registry.cli.command import Verb
from registry.cli.params import FilledPath, Reference
from registry.cli.shown.output import emit
from registry.cli.shown.progress import bars
from registry.cli.shown.text import plural, printable, size, table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry.cli.invocation import Invocation
    from registry.results import FsckResult, GcResult


@click.command(cls=Verb, examples=["adapters verify team/sql@3"])
@click.argument("ref", type=Reference())
@click.pass_obj
def verify(invocation: Invocation, ref: str) -> None:
    """Hash every file of a version again.

    Exit code 6 where stored bytes no longer match their digest.
    """
    result = invocation.registry.verify(ref)
    line = f"{result.status}  {printable(result.ref)}  {plural(result.files, 'file')}, {size(result.bytes)}"
    emit(invocation, result, human=lambda: [line], quiet=lambda: [result.ref])


@click.command(cls=Verb, examples=["adapters fsck", "adapters fsck --format json", "adapters fsck --rebuild"])
@click.option("--rebuild", is_flag=True, help="First make versions and lineage again that only their blobs tell of.")
@click.pass_obj
def fsck(invocation: Invocation, *, rebuild: bool) -> int:
    """Check the whole registry: rows, blobs and bytes.

    Exit code 6 where bytes are wrong or missing, 1 for other errors. Leftovers of a crash are info: gc takes them.
    With --rebuild, a lost or damaged catalog is filled from the blobs; rows that are there are never overwritten.
    """
    from registry.upkeep.fsck import WRONG_BYTES

    with bars(invocation) as progress:
        result = invocation.registry.fsck(rebuild=rebuild, progress=progress)
    emit(invocation, result, human=lambda: _fsck_lines(result), quiet=lambda: _loud(result))
    errors = {finding.id for finding in result.findings if finding.severity == "error"}
    return 6 if errors & WRONG_BYTES else 1 if errors else 0


@click.command(cls=Verb, examples=["adapters gc --dry-run", "adapters gc --grace 30d"])
@click.option(
    "--grace", metavar="D", default="7d", show_default=True, help="Spare what is younger: 0, 90s, 15m, 12h, 7d."
)
@click.option("--dry-run", is_flag=True, help="Say what would be freed and free nothing.")
@click.pass_obj
def gc(invocation: Invocation, *, grace: str, dry_run: bool) -> None:
    """Free what no version needs any more.

    Deleted versions older than --grace lose their files for good; leftovers of crashed pushes go too.
    """
    result = invocation.registry.gc(grace=grace, dry_run=dry_run)
    emit(invocation, result, human=lambda: _gc_lines(result), quiet=lambda: result.removed)


@click.command(cls=Verb, examples=["adapters backup --to /backups/catalog-monday.db"])
@click.option("--to", required=True, type=FilledPath(), metavar="FILE", help="Where to write the copy.")
@click.option("--force", is_flag=True, help="Replace FILE where it exists.")
@click.pass_obj
def backup(invocation: Invocation, *, to: str, force: bool) -> None:
    """Copy a SQLite catalog to a file while it is in use.

    The copy is checked and durable when this returns. Copy the blobs after it, never before: docs/operations.md says
    how, and what pg_dump does for PostgreSQL.
    """
    result = invocation.registry.backup(to, force=force)
    line = f"copied  {printable(result.path)}  {plural(result.versions, 'version')}, {size(result.size)}"
    emit(invocation, result, human=lambda: [line], quiet=lambda: [result.path])


def _fsck_lines(result: FsckResult) -> Iterator[str]:
    yield f"{result.status}  {plural(result.versions, 'version')}, {plural(result.blobs, 'blob')}"
    for word, refs in (("made again", result.made), ("completed", result.completed)):
        if refs:
            yield f"{word}: {', '.join(printable(ref) for ref in refs)}"
    if result.findings:
        rows = [(found.severity, found.id, found.subject, found.message) for found in result.findings]
        yield from table(("SEVERITY", "ID", "SUBJECT", "MESSAGE"), rows)


def _loud(result: FsckResult) -> list[str]:
    return [finding.subject for finding in result.findings if finding.severity != "info"]


def _gc_lines(result: GcResult) -> Iterator[str]:
    verb = "would free" if result.dry_run else "freed"
    parts = f"{plural(result.versions, 'version')}, {plural(result.temporary, 'temporary file')}"
    yield f"{verb} {plural(result.blobs, 'blob')}, {size(result.bytes)} ({parts})"
    for reason, count in result.kept.items():
        yield f"kept {count}: {printable(reason)}"
