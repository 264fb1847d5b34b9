"""`export`, `import`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from registry.cli.command import Verb
from registry.cli.params import FilledPath, KeyValue, Reference, allow_option, pairs_option
from registry.cli.shown.findings import finding_lines
from registry.cli.shown.hub import import_account
from registry.cli.shown.output import emit, note
from registry.cli.shown.progress import bars
from registry.cli.shown.text import plural, printable, size, table
from registry.hub.place import is_hub

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry.cli.invocation import Invocation
    from registry.results import ExportResult, ImportResult


@click.command(
    cls=Verb,
    examples=[
        "adapters export team/sql --to sql.tar",
        "adapters export team/sql@3 team/code@prod --to two.tar --no-parents",
    ],
)
@click.argument("names", nargs=-1, required=True, type=Reference(), metavar="REF...")
@click.option("--to", required=True, type=FilledPath(), metavar="FILE", help="Where to write the bundle.")
@click.option("--no-parents", is_flag=True, help="Leave out the versions that these come from.")
@click.option("--force", is_flag=True, help="Replace FILE where it exists.")
@click.pass_obj
def export(invocation: Invocation, names: tuple[str, ...], *, to: str, no_parents: bool, force: bool) -> None:
    """Write versions and what they come from to one file.

    A name stands for all its versions. The bundle holds their files, parents, bases, reports, tags, metrics and
    aliases; the same content gives the same bytes.
    """
    with bars(invocation) as progress:
        result = invocation.registry.export(*names, to=to, parents=not no_parents, force=force, progress=progress)
    emit(invocation, result, human=lambda: _export_lines(result), quiet=lambda: [result.path or result.digest])


@click.command(
    "import",
    cls=Verb,
    examples=[
        "adapters import ./sql.tar",
        "adapters import ./sql.tar --map team=staging --dry-run",
        "adapters import 'hf://org/*' --into team --match 'sql-*' --limit 20",
    ],
)
@click.argument("source", type=FilledPath(), metavar="SOURCE")
@pairs_option(
    "--map",
    "names",
    kind=KeyValue(),
    metavar="OLD=NEW",
    text="Call a namespace, or a namespace/name, of the bundle NEW here.",
)
@allow_option
@click.option("--into", metavar="NAMESPACE", help="From the Hub: the namespace here. Default: the account's name.")
@click.option("--match", metavar="GLOB", help="From the Hub: only models with such a name.")
@click.option("--limit", type=click.IntRange(0), metavar="N", help="From the Hub: at most N that are not here yet.")
@click.option("--dry-run", is_flag=True, help="Verify all of it, say what would come in, and write nothing.")
@click.pass_obj
def import_(
    invocation: Invocation,
    source: str,
    *,
    names: dict[str, str],
    allow: tuple[str, ...],
    into: str | None,
    match: str | None,
    limit: int | None,
    dry_run: bool,
) -> int:
    """Bring in versions from a bundle or the Hub.

    Every digest is verified and every version checked before the first is recorded. A number that is taken here
    becomes the next free one; content that is here already stays as it is. From hf://org/* every adapter is pushed by
    itself, and one that is refused does not stop the others.
    """
    if is_hub(source):
        if names:
            raise click.UsageError("--map is for bundles; --into names the namespace for what comes from the Hub")
        options = {"into": into, "match": match, "limit": limit or 0, "allow": allow, "dry_run": dry_run}
        return import_account(invocation, source, **options)
    if (into, match, limit) != (None, None, None):
        raise click.UsageError("--into, --match and --limit go with hf://org/*; --map renames what a bundle holds")
    with bars(invocation) as progress:
        result = invocation.registry.import_(source, names=names, allow=allow, dry_run=dry_run, progress=progress)
    emit_imported(invocation, result)
    return 0


def emit_imported(invocation: Invocation, result: ImportResult) -> None:
    """What an import did, its notes on stderr."""
    for text in result.notes:
        note(text)
    refs = [one.ref for one in result.versions]
    emit(invocation, result, human=lambda: _import_lines(invocation, result), quiet=lambda: refs)


def _export_lines(result: ExportResult) -> Iterator[str]:
    yield f"exported  {printable(result.path or '-')}"
    yield f"{plural(len(result.versions), 'version')}, {plural(result.blobs, 'blob')}, {size(result.size)}"
    yield f"digest  {result.digest}"
    for ref in result.left_out:
        yield f"left out: {printable(ref)}"


def _import_lines(invocation: Invocation, result: ImportResult) -> Iterator[str]:
    rows = [
        (_word(created=one.created, dry_run=result.dry_run), one.ref, one.source, one.digest) for one in result.versions
    ]
    yield from table(("", "REF", "FROM", "DIGEST"), rows)
    yield from finding_lines(invocation, result.findings)


def _word(*, created: bool, dry_run: bool) -> str:
    if not created:
        return "unchanged"
    return "would import" if dry_run else "imported"
