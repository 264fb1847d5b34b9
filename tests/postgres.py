"""PostgreSQL databases for tests: copies of a template, emptied after a test and used again by the next one."""

from __future__ import annotations

import itertools
import os
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import psycopg

from registry.catalog.database import Database
from registry.catalog.schema import prepare

if TYPE_CHECKING:
    from collections.abc import Iterator

_numbers = itertools.count()
_TEMPLATE = "catalog_template"

_PUBLIC = "'public'::regnamespace"
_SHAPE = f"""
SELECT md5(string_agg(part, '|' ORDER BY part)) FROM (
    SELECT concat_ws(' ', 'schema', nspname) FROM pg_namespace WHERE nspname !~ '^pg_'
    UNION ALL SELECT concat_ws(' ', 'relation', oid::regclass, relkind, reloptions) FROM pg_class
      WHERE relnamespace = {_PUBLIC}
    UNION ALL SELECT concat_ws(' ', 'column', attrelid::regclass, attname, atttypid, attnotnull, attidentity)
      FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid WHERE relnamespace = {_PUBLIC}
    UNION ALL SELECT concat_ws(' ', 'constraint', conrelid::regclass, pg_get_constraintdef(oid)) FROM pg_constraint
      WHERE connamespace = {_PUBLIC}
    UNION ALL SELECT concat_ws(' ', 'trigger', tgrelid::regclass, tgname, tgenabled) FROM pg_trigger
      WHERE NOT tgisinternal
    UNION ALL SELECT concat_ws(' ', 'function', proname) FROM pg_proc WHERE pronamespace = {_PUBLIC}
    UNION ALL SELECT concat_ws(' ', 'statistics', tablename, attname) FROM pg_stats WHERE schemaname = 'public'
    UNION ALL SELECT concat_ws(' ', 'setting', setconfig) FROM pg_db_role_setting
      JOIN pg_database ON pg_database.oid = setdatabase WHERE datname = current_database()
) AS parts (part)
"""
"""All that a test could leave behind besides rows; statistics, because they choose another plan."""


class Databases:
    """The databases that this process has on the server at a URL. A class because it keeps them for the next test."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._free: list[str] = []
        self._shape = ""
        self._content: Content | None = None

    @contextmanager
    def catalog(self) -> Iterator[str]:
        """The URL of a database with the schema and no rows."""
        name = self._free.pop() if self._free else self._copy()
        yield named(self._server, name)
        if self._emptied(name):
            self._free.append(name)
        else:
            drop(self._server, name)

    @contextmanager
    def nothing(self) -> Iterator[str]:
        """The URL of a database in which nothing is."""
        name = f"test_{os.getpid()}_{next(_numbers)}"
        copy(self._server, name, "template0")
        yield named(self._server, name)
        drop(self._server, name)

    def _copy(self) -> str:
        name = f"test_{os.getpid()}_{next(_numbers)}"
        copy(self._server, name)
        if self._content is None:
            url = named(self._server, name)
            self._content = content_of(url)
            with _connected(url) as connection:
                self._shape = _one(connection, _SHAPE)
        return name

    def _emptied(self, name: str) -> bool:
        """Gives the database the template's rows; False where more than rows had changed."""
        with _connected(named(self._server, name)) as connection:
            # Whatever still runs there was the test's, and ends as it would with its database.
            others = "datname = current_database() AND pid <> pg_backend_pid()"
            connection.execute(f"SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE {others}")
            if _one(connection, _SHAPE) != self._shape:
                return False
            assert self._content is not None
            _give(connection, self._content)
        return True


@dataclass(frozen=True, slots=True)
class Content:
    """All rows of a database as JSON by table, and the last number of each sequence that gave one."""

    rows: dict[str, str]
    numbers: dict[str, int]

    def moved(self, old: str, new: str) -> Content:
        """It, with another folder in every path."""
        return replace(self, rows={table: rows.replace(f"{old}/", f"{new}/") for table, rows in self.rows.items()})


def content_of(url: str) -> Content:
    """What a database holds."""
    with _connected(url) as connection:
        rows = {
            table: _one(connection, f"SELECT coalesce(json_agg({table}), '[]')::text FROM {table}")
            for table in _tables(connection)
        }
        numbers = connection.execute("SELECT sequencename, last_value FROM pg_sequences WHERE schemaname = 'public'")
        return Content(rows, {name: last for name, last in numbers if last is not None})


def give(url: str, content: Content) -> None:
    """Makes a database with the same schema hold this and nothing else."""
    with _connected(url) as connection:
        _give(connection, content)


def _give(connection: psycopg.Connection, content: Content) -> None:
    with connection.transaction():
        # Rows that were consistent where they come from are taken in any order, and no trigger acts on them again.
        connection.execute("SET LOCAL session_replication_role = replica")
        connection.execute(f"TRUNCATE {', '.join(content.rows)} RESTART IDENTITY")
        for table, rows in content.rows.items():
            if rows != "[]":
                taken = f"SELECT * FROM json_populate_recordset(NULL::{table}, %s)"
                connection.execute(f"INSERT INTO {table} OVERRIDING SYSTEM VALUE {taken}", [rows])
        for name, last in content.numbers.items():
            connection.execute("SELECT setval(%s, %s)", [name, last])


def fill(server: str) -> None:
    """Makes the template, once per server; fsync is left out, since no test cuts this server's power."""
    with _connected(server) as connection:
        if connection.execute(f"SELECT FROM pg_database WHERE datname = '{_TEMPLATE}'").fetchone() is not None:
            return
        for setting in ("fsync", "full_page_writes", "autovacuum"):
            connection.execute(f"ALTER SYSTEM SET {setting} = off")
        connection.execute("SELECT pg_reload_conf()")
    copy(server, "catalog_making", "template0")
    making = Database(named(server, "catalog_making"))
    prepare(making)
    making.dispose()
    with _connected(server) as connection:
        connection.execute(f"ALTER DATABASE catalog_making RENAME TO {_TEMPLATE}")


def copy(server: str, name: str, template: str = _TEMPLATE) -> None:
    """Makes a database like another, to which nobody may be connected."""
    with _connected(server) as connection:
        # File by file: quicker than through the log where nothing is synced.
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")


def drop(server: str, name: str) -> None:
    """Takes a database away, whoever is connected."""
    with _connected(server) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def named(server: str, name: str) -> str:
    """The URL of one of the server's databases; the server's own ends in /postgres?host=/socket/folder."""
    return server.replace("/postgres?", f"/{name}?", 1)


def _plain(url: str) -> str:
    """The URL as libpq knows it."""
    return url.replace("postgresql+psycopg:", "postgresql:", 1)


def _connected(url: str) -> psycopg.Connection:
    return psycopg.connect(_plain(url), autocommit=True)


def _one(connection: psycopg.Connection, query: str) -> str:
    row = connection.execute(query).fetchone()
    assert row is not None
    return row[0]


def _tables(connection: psycopg.Connection) -> list[str]:
    query = f"SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = {_PUBLIC} ORDER BY relname"
    return [row[0] for row in connection.execute(query)]
