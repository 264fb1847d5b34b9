"""Connections: one transaction per piece of work, retried where that is safe, and errors in words."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from registry.catalog import faults
from registry.catalog.connections import connect, parse_url, place_of
from registry.errors import BusyError, UnavailableError
from registry.values import jitter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import URL, Connection, Engine

    from registry.models import Table

T = TypeVar("T")

BUSY_TIMEOUT_S = 30.0
_TRIES = 12
_PATIENCE_S = 60.0
_FIRST_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 2.0


class Database:
    """A catalog's database. A class because it holds a pool of connections, made anew in a forked child.

    Every error that a person can act on leaves here as UnavailableError or SchemaError, naming the database without
    its password; what is left is a bug.
    """

    def __init__(self, url: str | URL, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> None:
        self._url = parse_url(url)
        self._busy_timeout_s = busy_timeout_s
        self.is_sqlite = self._url.get_backend_name() == "sqlite"
        self.place = place_of(self._url)
        self.label = f"database {self.place}"
        self._owner = 0
        self._connections: Engine | None = None

    @property
    def file(self) -> str | None:
        """The path of the SQLite file; None on PostgreSQL."""
        return self._url.database if self.is_sqlite else None

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """One read transaction: all its statements see one state. Keep it short: on SQLite it delays writers.

        Rows read in it keep their values afterwards.
        """
        begin = "DEFERRED" if self.is_sqlite else "ISOLATION LEVEL REPEATABLE READ READ ONLY"
        with faults.translated(self.label), self._begun(begin) as session:
            yield session
            # Committed, because psycopg forgets all prepared statements in a rollback. There is nothing to write.
            session.expunge_all()
            session.commit()

    def write(self, work: Callable[[Session], T]) -> T:
        """Run `work` in one transaction and commit it; what it returns must not need the session any more.

        `work` runs again from the start when a concurrent writer was in the way (busy, deadlock, a number taken).
        After a COMMIT whose answer was lost it does not: UnavailableError says that the outcome is unknown.
        """
        end = time.monotonic() + _PATIENCE_S
        for attempt in range(_TRIES):
            try:
                with faults.translated(self.label):
                    return self._attempt(work)
            except BusyError:
                if attempt == _TRIES - 1 or time.monotonic() > end:
                    raise
            time.sleep(jitter.pause(attempt, first=_FIRST_PAUSE_S, longest=_LONGEST_PAUSE_S))
        raise AssertionError

    def _attempt(self, work: Callable[[Session], T]) -> T:
        with self._begun("IMMEDIATE" if self.is_sqlite else "") as session:
            result = work(session)
            session.flush()
            try:
                session.commit()
            except DBAPIError as error:
                if faults.outcome_unknown(error):
                    raise UnavailableError(
                        f"{self.label}: the connection broke while committing; whether the change was made is unknown",
                        hint="run the same command again: what is already done is found unchanged",
                    ) from error
                raise
            return result

    def _begun(self, begin: str) -> Session:
        """A session in a transaction. A connection that the server closed while it idled is found out and replaced."""
        session = Session(self._pool().execution_options(begin=begin), expire_on_commit=False)
        try:
            session.connection()
        except DBAPIError as error:
            session.rollback()
            if not error.connection_invalidated:
                raise
            session.connection()  # the pool threw all its connections away with that one
        return session

    @contextmanager
    def migrating(self) -> Iterator[Connection]:
        """One transaction that may change the schema, alone: SQLite's write lock, or an advisory lock on PostgreSQL.

        Foreign keys are off on SQLite while tables are rebuilt, and checked before the commit.
        """
        with faults.translated(self.label), self._pool().connect() as connection:
            if self.is_sqlite:
                connection.execution_options(begin="IMMEDIATE")
                connection.connection.dbapi_connection.execute("PRAGMA foreign_keys = OFF")  # type: ignore[union-attr]  # sqlite3
            try:
                with connection.begin():
                    if not self.is_sqlite:
                        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({SCHEMA_LOCK})")
                    yield connection
                    if self.is_sqlite:
                        _check_foreign_keys(connection, self.label)
            finally:
                # A connection with other pragmas must not go back to the pool.
                connection.invalidate()

    def dispose(self) -> None:
        """Close all idle connections."""
        if self._connections is not None:
            self._connections.dispose(close=self._owner == os.getpid())
            self._connections = None

    def _pool(self) -> Engine:
        # A connection must not be shared with a forked parent: SQLite's locks and the wire protocol would break.
        if self._connections is None or self._owner != os.getpid():
            self.dispose()
            self._owner = os.getpid()
            self._connections = connect(self._url, self.label, self._busy_timeout_s)
        return self._connections


SCHEMA_LOCK = 7_235_441_001


def insert_into(session: Session, table: type[Table]) -> Any:
    """An INSERT that knows ON CONFLICT, in the session's dialect."""
    make = sqlite.insert if session.get_bind().dialect.name == "sqlite" else postgresql.insert
    return make(table)


def _check_foreign_keys(connection: Connection, label: str) -> None:
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
    if broken:
        raise UnavailableError(f"{label}: {len(broken)} rows of {broken[0][0]} point at nothing; nothing was changed")
