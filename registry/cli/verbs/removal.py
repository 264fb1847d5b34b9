"""`rm`, `undelete`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from registry.cli.command import Verb
from registry.cli.params import Reference
from registry.cli.shown.output import emit
from registry.cli.shown.text import printable

if TYPE_CHECKING:
    from registry.cli.invocation import Invocation


@click.command(cls=Verb, examples=["adapters rm team/sql@2"])
@click.argument("ref", type=Reference())
@click.pass_obj
def rm(invocation: Invocation, ref: str) -> None:
    """Delete a version; undelete brings it back until gc.

    Its number is never given again and its lineage stays. Refused (exit code 5) while an alias names it.
    """
    info = invocation.registry.remove(ref)
    emit(invocation, info, human=lambda: [f"deleted  {printable(info.ref)}"], quiet=lambda: [info.ref])


@click.command(cls=Verb, examples=["adapters undelete team/sql@2"])
@click.argument("ref", type=Reference())
@click.pass_obj
def undelete(invocation: Invocation, ref: str) -> None:
    """Bring a deleted version back.

    Exit code 4 once gc has freed its files; pushing the same content again brings it back then too.
    """
    info = invocation.registry.undelete(ref)
    emit(invocation, info, human=lambda: [f"restored  {printable(info.ref)}"], quiet=lambda: [info.ref])
