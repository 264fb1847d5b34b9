"""`init`, `migrate`, `doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from registry.cli.command import Verb
from registry.cli.shown.output import emit
from registry.cli.shown.text import fields, table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry.cli.invocation import Invocation
    from registry.results import RegistryStatus


@click.command(cls=Verb, examples=["adapters init", "adapters init --database-url postgresql://db/adapters"])
@click.pass_obj
def init(invocation: Invocation) -> None:
    """Create the registry's database and folders.

    Every other command does the same on an empty home; a registry that is there already is left as it is.
    """
    _emit_status(invocation, invocation.registry.init())


@click.command(cls=Verb, examples=["adapters migrate"])
@click.pass_obj
def migrate(invocation: Invocation) -> None:
    """Upgrade the database to this version of adapters.

    SQLite is copied first and upgrades itself at the first command; PostgreSQL waits for this one.
    """
    _emit_status(invocation, invocation.registry.migrate())


@click.command(cls=Verb, examples=["adapters doctor", "adapters doctor --format json"])
@click.pass_obj
def doctor(invocation: Invocation) -> int:
    """Check that database, store and settings work together.

    Exit code 7 where a check fails.
    """
    status = invocation.registry.doctor()
    _emit_status(invocation, status)
    return 7 if any(check.get("status") == "fail" for check in status.checks) else 0


def _emit_status(invocation: Invocation, status: RegistryStatus) -> None:
    emit(invocation, status, human=lambda: _lines(status), quiet=lambda: [status.database])


def _lines(status: RegistryStatus) -> Iterator[str]:
    yield from fields(
        {
            "database": status.database,
            "store": status.store,
            "revision": status.revision or "none",
            "created": "now" if status.created else None,
            "upgraded from": status.upgraded_from,
            "backup": status.backup,
        }
    )
    if status.checks:
        header = list(dict.fromkeys(key for check in status.checks for key in check))
        yield ""
        rows = [["-" if check.get(key) is None else str(check[key]) for key in header] for check in status.checks]
        yield from table([key.upper() for key in header], rows)
