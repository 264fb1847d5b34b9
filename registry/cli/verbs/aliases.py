"""`alias set`, `alias rm`, `alias rollback`, `alias list`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from registry.cli.command import Verbs
from registry.cli.params import Reference
from registry.cli.shown.output import emit
from registry.cli.shown.text import printable, table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from registry.cli.invocation import Invocation
    from registry.results import AliasInfo


@click.group(cls=Verbs, examples=["adapters alias set team/sql@3 prod", "adapters alias list team/sql"])
def alias() -> None:
    """Movable names for versions."""


@alias.command(
    "set",
    examples=["adapters alias set team/sql@3 prod", "adapters alias set team/sql@3 prod --expect team/sql@2"],
)
@click.argument("ref", type=Reference())
@click.argument("alias_name", type=Reference(), metavar="ALIAS")
@click.option(
    "--expect", type=Reference(), metavar="REF|none", help="Move it only if it names this version now, or none at all."
)
@click.pass_obj
def set_(invocation: Invocation, ref: str, alias_name: str, *, expect: str | None) -> None:
    """Point ALIAS at a version.

    With --expect the move fails (exit code 5) if somebody else has moved it meanwhile.
    """
    _emit_move(invocation, invocation.registry.set_alias(ref, alias_name, expect=expect))


@alias.command("rm", examples=["adapters alias rm team/sql canary"])
@click.argument("name", type=Reference())
@click.argument("alias_name", type=Reference(), metavar="ALIAS")
@click.pass_obj
def rm(invocation: Invocation, name: str, alias_name: str) -> None:
    """Remove ALIAS from an adapter; its history stays."""
    _emit_move(invocation, invocation.registry.remove_alias(name, alias_name))


@alias.command("rollback", examples=["adapters alias rollback team/sql prod"])
@click.argument("name", type=Reference())
@click.argument("alias_name", type=Reference(), metavar="ALIAS")
@click.pass_obj
def rollback(invocation: Invocation, name: str, alias_name: str) -> None:
    """Point ALIAS at the version it named before."""
    _emit_move(invocation, invocation.registry.rollback_alias(name, alias_name))


@alias.command("list", examples=["adapters alias list team/sql", "adapters alias list team/sql --format json"])
@click.argument("name", type=Reference())
@click.pass_obj
def list_(invocation: Invocation, name: str) -> None:
    """List an adapter's aliases."""
    found = invocation.registry.aliases(name)
    emit(invocation, found, human=lambda: _lines(found), quiet=lambda: [info.alias for info in found])


def _emit_move(invocation: Invocation, info: AliasInfo) -> None:
    emit(invocation, info, human=lambda: [_move(info)], quiet=lambda: [info.ref] if info.ref else [])


def _move(info: AliasInfo) -> str:
    before = f" (before: version {info.previous})" if info.previous is not None else ""
    return f"{printable(info.alias)} -> {printable(info.ref or 'removed')}{before}"


def _lines(found: Sequence[AliasInfo]) -> Iterator[str]:
    if found:
        rows = [(info.alias, info.ref or "-", _number(info.previous)) for info in found]
        yield from table(("ALIAS", "REF", "BEFORE"), rows, right=("BEFORE",))


def _number(version: int | None) -> str:
    return "-" if version is None else str(version)
