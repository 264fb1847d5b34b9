"""Connections: one transaction per piece of work, retried where that is safe, and errors in words."""

from __future__ import annotations

import os
import random
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import URL, create_engine, event, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.orm import Session

from registry import faults
from registry.errors import BusyError, UnavailableError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Connection, Engine

    from registry.models import Table

T = TypeVar("T")

BUSY_TIMEOUT_S = 30.0
_TRIES = 12
_PATIENCE_S = 60.0
_FIRST_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 2.0
# Per connection. EXTRA fsyncs the directory after the journal is unlinked, without which an acknowledged commit can be
# rolled back by a power cut; in WAL mode it means FULL. The defences cost nothing and keep a hostile file from acting.
_PRAGMAS = (
    "PRAGMA foreign_keys = ON",
    "PRAGMA synchronous = EXTRA",
    "PRAGMA trusted_schema = OFF",
    "PRAGMA cell_size_check = ON",
    # A filtered page of a list touches some thousand rows; in the default 2 MB each is read from the file again.
    "PRAGMA cache_size = -65536",
)
_POSTGRES_OPTIONS = {
    "statement_timeout": "60s",
    "lock_timeout": "30s",
    "idle_in_transaction_session_timeout": "120s",
    "TimeZone": "UTC",
}


class Database:
    """A catalog's database. A class because it holds a pool of connections, made anew in a forked child.

    Every error that a person can act on leaves here as UnavailableError or SchemaError, naming the database without
    its password; what is left is a bug.
    """

    def __init__(self, url: str | URL, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> None:
        self._url = _parse(url)
        self._busy_timeout_s = busy_timeout_s
        self.is_sqlite = self._url.get_backend_name() == "sqlite"
        self.label = _label(self._url)
        self._owner = 0
        self._connections: Engine | None = None

    @property
    def file(self) -> str | None:
        """The path of the SQLite file; None on PostgreSQL."""
        return self._url.database if self.is_sqlite else None

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """One read transaction: all its statements see one state. Keep it short: on SQLite it delays writers."""
        options: dict[str, Any] = {"begin": "DEFERRED"}
        if not self.is_sqlite:
            options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        with faults.translated(self.label), Session(self._pool().execution_options(**options)) as session:
            yield session

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
            # Full jitter: writers that collided once do not meet again.
            time.sleep(random.uniform(0, min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**attempt)))  # noqa: S311 (no secret)
        raise AssertionError

    def _attempt(self, work: Callable[[Session], T]) -> T:
        with Session(self._pool().execution_options(begin="IMMEDIATE"), expire_on_commit=False) as session:
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
            self._connections = _connect(self._url, self.label, self._busy_timeout_s)
        return self._connections


SCHEMA_LOCK = 7_235_441_001


def insert_into(session: Session, table: type[Table]) -> Any:
    """An INSERT that knows ON CONFLICT, in the session's dialect."""
    make = sqlite.insert if session.get_bind().dialect.name == "sqlite" else postgresql.insert
    return make(table)


def _parse(url: str | URL) -> URL:
    if isinstance(url, URL):
        return url
    if url.startswith("sqlite:"):
        # The rest is a path, verbatim: a folder may have a question mark in its name.
        path = url.removeprefix("sqlite:///")
        if path in ("", ":memory:", url):
            raise UsageError(f"database URL {url!r}: expected sqlite:///path/to/catalog.db")
        return URL.create("sqlite", database=os.path.abspath(path))  # noqa: PTH100 (resolves no links)
    try:
        return make_url(url)
    except (ArgumentError, ValueError):
        # The text may hold a password, so it is not repeated.
        raise UsageError("database URL cannot be read: expected postgresql://user:password@host:port/name") from None


def _label(url: URL) -> str:
    """The database in words: no password, no query (which may hold one)."""
    if url.get_backend_name() == "sqlite":
        return f"database {url.database}"
    host = url.host or url.query.get("host") or ""
    port = f":{url.port}" if url.port else ""
    return f"database postgresql://{host if isinstance(host, str) else host[0]}{port}/{url.database or ''}"


def _connect(url: URL, label: str, busy_timeout_s: float) -> Engine:
    if url.get_backend_name() == "sqlite":
        return _connect_sqlite(url, busy_timeout_s)
    given = {name: value for name, value in _POSTGRES_OPTIONS.items() if "options" not in url.query}
    arguments: dict[str, Any] = {"application_name": "adapters", "connect_timeout": 10}
    arguments = {name: value for name, value in arguments.items() if name not in url.query}
    if given:
        arguments["options"] = " ".join(f"-c {name}={value}" for name, value in given.items())
    try:
        return create_engine(url, pool_pre_ping=True, connect_args=arguments)
    except ModuleNotFoundError as error:
        raise UnavailableError(
            f"{label}: needs {error.name}, which is not installed", hint="pip install 'adapter-registry[postgres]'"
        ) from None


def _connect_sqlite(url: URL, busy_timeout_s: float) -> Engine:
    pool = create_engine(_openable(url), connect_args={"timeout": busy_timeout_s, "check_same_thread": False})

    @event.listens_for(pool, "connect")
    def set_up(connection: Any, _record: Any) -> None:
        # The driver would begin late and by itself; the event below begins, and says how.
        connection.isolation_level = None
        for pragma in _PRAGMAS:
            connection.execute(pragma)

    @event.listens_for(pool, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql(f"BEGIN {connection.get_execution_options().get('begin', 'DEFERRED')}")

    return pool


def _openable(url: URL) -> URL:
    """A WAL database on a read-only mount opens only as immutable, which is true there unless a log was left."""
    path = url.database or ""
    try:
        frozen = bool(os.statvfs(path).f_flag & os.ST_RDONLY) and not os.path.exists(f"{path}-wal")  # noqa: PTH110
    except OSError:
        return url
    if not frozen or not _uses_wal(path):
        return url
    from urllib.parse import quote

    return URL.create("sqlite", database=f"file:{quote(path)}", query={"immutable": "1", "uri": "true"})


def _uses_wal(path: str) -> bool:
    # Byte 18 of the file header is the write version: 2 means a write-ahead log.
    with open(path, "rb") as stream:  # noqa: PTH123 (the path is text here)
        return stream.read(19)[18:] == b"\x02"


def _check_foreign_keys(connection: Connection, label: str) -> None:
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
    if broken:
        raise UnavailableError(f"{label}: {len(broken)} rows of {broken[0][0]} point at nothing; nothing was changed")
