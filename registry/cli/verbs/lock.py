"""`lock`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from registry.cli.command import Verb
from registry.cli.params import Reference, Word
from registry.cli.shown.output import emit
from registry.cli.shown.text import table
from registry.project import LOCK

if TYPE_CHECKING:
    from registry.cli.invocation import Invocation

lock_file = click.option(
    "--file", "--lock", "lock", type=Word(), default=LOCK, show_default=True, metavar="FILE", help="The lock file."
)


@click.command(cls=Verb, examples=["adapters lock team/sql@prod team/chat@prod", "adapters lock"])
@click.argument("refs", type=Reference(), nargs=-1, metavar="[REF]...")
@lock_file
@click.pass_obj
def lock(invocation: Invocation, refs: tuple[str, ...], *, lock: str) -> None:
    """Write down what references mean now: digests and bases.

    Adds to what the file holds; without a REF, all that it holds is locked anew.
    """
    result = invocation.registry.lock(*refs, file=Path(lock).expanduser())
    rows = [(pin.ref, pin.version, pin.digest, pin.base or "-") for pin in result.adapters]
    emit(
        invocation,
        result,
        human=lambda: table(("REF", "VERSION", "DIGEST", "BASE"), rows),
        quiet=lambda: result.changed,
    )
