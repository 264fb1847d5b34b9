"""`pull`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from registry.cli.command import Verb
from registry.cli.output import emit
from registry.cli.params import FilledPath, Reference
from registry.cli.progress import bars
from registry.cli.text import printable

if TYPE_CHECKING:
    from registry.cli.invocation import Invocation


@click.command(
    cls=Verb,
    examples=[
        "adapters pull team/sql@prod",
        "adapters pull team/sql@3 --to ./sql",
        "vllm serve BASE --enable-lora --lora-modules sql=$(adapters pull team/sql@prod --format quiet)",
    ],
)
@click.argument("ref", type=Reference())
@click.option("--to", type=FilledPath(), metavar="DIR", help="Copy the files into this new folder.")
@click.pass_obj
def pull(invocation: Invocation, ref: str, *, to: str | None) -> None:
    """Fetch a version's files, verified against their digests.

    Prints the folder. Without --to it is one that never changes and belongs to the version's digest alone.
    """
    with bars(invocation) as progress:
        result = invocation.registry.pull_result(ref, to=to, progress=progress)
    path = str(result.path)
    emit(invocation, result, human=lambda: [printable(path)], quiet=lambda: [path])
