"""Pools of connections to SQLite and PostgreSQL, set up so that a transaction begins when and how we say."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError

from registry.errors import UnavailableError, UsageError

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

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


def parse_url(url: str | URL) -> URL:
    """The URL of a database; UsageError, which does not repeat it, where it cannot be read."""
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


def place_of(url: URL) -> str:
    """Where the database is: no password, no query (which may hold one)."""
    if url.get_backend_name() == "sqlite":
        return str(url.database)
    host = url.host or url.query.get("host") or ""
    port = f":{url.port}" if url.port else ""
    return f"postgresql://{host if isinstance(host, str) else host[0]}{port}/{url.database or ''}"


def connect(url: URL, label: str, busy_timeout_s: float) -> Engine:
    """A pool of connections, whose execution option `begin` says what follows the word BEGIN.

    Nothing asks whether a pooled connection is still alive: its BEGIN does, see `Database`.
    """
    pool = _sqlite(url, busy_timeout_s) if url.get_backend_name() == "sqlite" else _postgresql(url, label)

    @event.listens_for(pool, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql(f"BEGIN {connection.get_execution_options().get('begin', '')}")

    return pool


def _postgresql(url: URL, label: str) -> Engine:
    # The driver must not begin by itself. A BEGIN of our own says all in one round trip.
    arguments: dict[str, Any] = {"application_name": "adapters", "connect_timeout": 10}
    arguments = {name: value for name, value in arguments.items() if name not in url.query} | {"autocommit": True}
    if "options" not in url.query:
        arguments["options"] = " ".join(f"-c {name}={value}" for name, value in _POSTGRES_OPTIONS.items())
    try:
        return create_engine(url, connect_args=arguments)
    except ModuleNotFoundError as error:
        raise UnavailableError(
            f"{label}: needs {error.name}, which is not installed", hint="pip install 'adapter-registry[postgres]'"
        ) from None


def _sqlite(url: URL, busy_timeout_s: float) -> Engine:
    pool = create_engine(_openable(url), connect_args={"timeout": busy_timeout_s, "check_same_thread": False})

    @event.listens_for(pool, "connect")
    def set_up(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver would begin late, and in its own way
        for pragma in _PRAGMAS:
            connection.execute(pragma)

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
