"""What comes from the Hub and goes there, told to a person."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from registry.cli.shown.output import emit, note
from registry.cli.shown.progress import bars
from registry.cli.shown.text import printable, table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry.cli.invocation import Invocation
    from registry.hub.results import HubImportResult, SentResult


def import_account(invocation: Invocation, source: str, **options: Any) -> int:
    """Import an account's adapters and tell what became of each; the exit code of the whole."""
    with bars(invocation) as progress:
        result = invocation.registry.import_account(source, progress=progress, **options)
    for text in result.notes:
        note(text)
    for repo in result.repos:
        if repo.hint:
            note(f"{repo.source}: {repo.hint}", kind="hint")
    refs = [repo.ref for repo in result.repos if repo.ref is not None]
    emit(invocation, result, human=lambda: _import_lines(result), quiet=lambda: refs)
    return result.exit_code


def send(invocation: Invocation, ref: str, to: str, *, public: bool, force: bool, dry_run: bool) -> None:
    """Write a version to the Hub and tell where it is, or what would change."""
    with bars(invocation) as progress:
        sent = invocation.registry.send(ref, to, public=public, force=force, dry_run=dry_run, progress=progress)
    for text in sent.notes:
        note(text)
    place = sent.path or to
    emit(invocation, sent, human=lambda: _sent_lines(sent, place), quiet=lambda: [place])


def _import_lines(result: HubImportResult) -> Iterator[str]:
    rows = [(repo.status, repo.ref or "-", repo.source, repo.why or "") for repo in result.repos]
    yield from table(("", "REF", "FROM", "WHY"), rows)
    counts = Counter(repo.status for repo in result.repos)
    told = [f"{count} {status}" for status, count in counts.items()]
    yield ", ".join([*told, f"{result.others} without an adapter"] if result.others else told)


def _sent_lines(sent: SentResult, place: str) -> Iterator[str]:
    yield printable(place)
    if sent.dry_run:
        kind = "private" if sent.private else "public"
        yield f"would make a {kind} repo" if sent.path is None else f"would change a {kind} repo"
        for word, paths in (("add", sent.added), ("replace", sent.replaced), ("remove", sent.removed)):
            yield from (f"{word}  {printable(path)}" for path in paths)
