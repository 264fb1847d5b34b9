"""Runs migrations: in the transaction that registry/catalog/schema.py opened, or, for developers, in one of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alembic import context

from registry.catalog.database import Database
from registry.models import metadata
from registry.settings import load_settings

if TYPE_CHECKING:
    from sqlalchemy import Connection


def run(connection: Connection) -> None:
    """All migrations asked for; a transaction that is already open holds them together."""
    context.configure(
        connection=connection,
        target_metadata=metadata,
        compare_server_default=True,
        render_as_batch=True,
        transactional_ddl=True,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    raise SystemExit("migrations look at the database they change; --sql is not supported")

given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    url = context.get_x_argument(as_dictionary=True).get("url")
    database = Database(load_settings(database_url=url).resolved_database_url)
    with database.migrating() as own:
        run(own)
    database.dispose()
