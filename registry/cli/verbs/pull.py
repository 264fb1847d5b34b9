"""`pull`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from registry.cli.command import Verb
from registry.cli.params import FilledPath, Reference
from registry.cli.shown.hub import send
from registry.cli.shown.output import emit, note
from registry.cli.shown.progress import bars
from registry.cli.shown.text import printable
from registry.hub.place import is_hub

if TYPE_CHECKING:
    from registry.cli.invocation import Invocation


@click.command(
    cls=Verb,
    examples=[
        "adapters pull team/sql@3 --to ./sql",
        "adapters pull team/sql@prod --to hf://org/sql-lora",
        "vllm serve BASE --enable-lora --lora-modules sql=$(adapters pull team/sql@prod --format quiet)",
    ],
)
@click.argument("ref", type=Reference())
@click.option("--to", type=FilledPath(), metavar="DIR", help="Copy the files into this new folder, or hf://org/name.")
@click.option("--link", is_flag=True, help="With --to: read-only links into the pull cache, where it can have them.")
@click.option("--public", is_flag=True, help="On the Hub: let everyone read a repo that is made for this.")
@click.option("--force", is_flag=True, help="On the Hub: replace another adapter that is there.")
@click.option("--dry-run", is_flag=True, help="On the Hub: say what would change and change nothing.")
@click.pass_obj
def pull(
    invocation: Invocation, ref: str, *, to: str | None, link: bool, public: bool, force: bool, dry_run: bool
) -> None:
    """Fetch a version's files, verified against their digests.

    Prints the folder. Without --to it is one that never changes and belongs to the version's digest alone. On the
    Hub the files and a model card become one commit, in a private repo where there was none.
    """
    if to is not None and is_hub(to):
        if link:
            raise click.UsageError("--link goes with --to DIR")
        send(invocation, ref, to, public=public, force=force, dry_run=dry_run)
        return
    if public or force or dry_run:
        raise click.UsageError("--public, --force and --dry-run go with --to hf://org/name")
    with bars(invocation) as progress:
        result = invocation.registry.pull_result(ref, to=to, link=link, progress=progress, notice=note)
    path = str(result.path)
    emit(invocation, result, human=lambda: [printable(path)], quiet=lambda: [path])
