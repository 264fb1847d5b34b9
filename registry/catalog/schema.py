"""The schema: checked cheaply on every start, created or upgraded under a lock, by migrations and nothing else."""

from __future__ import annotations

import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sqlalchemy import text

from registry.errors import SchemaError, UnavailableError
from registry.files.disk import READ, opened, sync_folder

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from registry.catalog.database import Database

# The ordinal of the newest migration and its revision. A migration that only adds leaves `oldest_client` in the
# catalog alone, so that older clients keep working; one that takes something away raises it.
SCHEMA = 4
HEAD = "0004"
APPLICATION_ID = 0x41447074  # "ADpt", in the header of the SQLite file; the first migration writes it
WAL_IS_SAFE_FROM = (3, 51, 3)  # before it, concurrent writers can corrupt a write-ahead log (sqlite.org, 2026-03)

Kind = Literal["empty", "current", "older", "newer"]


@dataclass(frozen=True, slots=True)
class SchemaState:
    """What the database holds after `prepare`, and what `prepare` did to get there."""

    revision: str
    ordinal: int
    created: bool = False
    upgraded_from: str | None = None
    backup: Path | None = None


@dataclass(frozen=True, slots=True)
class _Found:
    kind: Kind
    revision: str | None = None
    ordinal: int = 0


def prepare(database: Database) -> SchemaState:
    """Make sure that this client can use the database.

    An empty one gets its schema; an older SQLite file is copied and upgraded. Raises SchemaError for a foreign
    database, one that only newer clients may use, and an older PostgreSQL database (which waits for `migrate`).
    """
    return _bring_up(database, explicit=False)


def migrate(database: Database) -> SchemaState:
    """Like `prepare`, and upgrades PostgreSQL too."""
    return _bring_up(database, explicit=True)


def migrations_folder() -> Path:
    """Where the migrations are: inside the installed package, or beside it in a checkout."""
    room = Path(__file__).parents[1]
    inside = room / "_migrations"
    return inside if inside.is_dir() else room.parent / "migrations"


def _bring_up(database: Database, *, explicit: bool) -> SchemaState:
    if database.file is not None:
        _make_folder(Path(database.file).parent)
    with database.reading() as session:
        found = _look(session.connection(), database.label)
    if found.kind in ("current", "newer"):
        return SchemaState(revision=str(found.revision), ordinal=found.ordinal)
    if found.kind == "older" and not database.is_sqlite and not explicit:
        raise SchemaError(
            f"{database.label} has schema {found.revision}, this client needs {HEAD}", hint="adapters migrate"
        )
    return _change(database)


def _change(database: Database) -> SchemaState:
    backup: Path | None = None
    with database.migrating() as connection:
        # Another process may have done it while this one waited for the lock.
        found = _look(connection, database.label)
        if found.kind in ("current", "newer"):
            return SchemaState(revision=str(found.revision), ordinal=found.ordinal)
        if found.kind == "older" and database.file is not None:
            backup = _copy(Path(database.file), str(found.revision))
        _upgrade(connection)
    if found.kind == "empty" and database.file is not None:
        _choose_journal(Path(database.file))
    return SchemaState(
        revision=HEAD, ordinal=SCHEMA, created=found.kind == "empty", upgraded_from=found.revision, backup=backup
    )


def _look(connection: Connection, label: str) -> _Found:
    """What is there, without alembic. Raises SchemaError for what is not ours or not for us."""
    tables = _tables(connection)
    if tables == {"alembic_version"} and not connection.scalar(text("SELECT count(*) FROM alembic_version")):
        tables = set()  # what a downgrade to nothing leaves
    if connection.dialect.name == "sqlite":
        _check_application(connection, label, empty=not tables)
    if not tables:
        return _Found("empty")
    if not {"alembic_version", "catalog_meta"} <= tables:
        raise SchemaError(
            f"{label} belongs to something else: it has the table {min(tables)} and no catalog of ours",
            hint="choose another database or another --home",
        )
    return _place(connection, label)


def _place(connection: Connection, label: str) -> _Found:
    revision = connection.scalar(text("SELECT version_num FROM alembic_version"))
    meta = {row.key: row.value for row in connection.execute(text("SELECT key, value FROM catalog_meta"))}
    try:
        ordinal, oldest_client = int(meta["schema"]), int(meta["oldest_client"])
    except (KeyError, ValueError):
        raise SchemaError(f"{label}: its catalog_meta does not say which schema it has") from None
    if ordinal < SCHEMA:
        return _Found("older", revision, ordinal)
    if ordinal == SCHEMA:
        if revision != HEAD:
            raise SchemaError(f"{label} has schema {revision}, which this client does not know; it knows {HEAD}")
        return _Found("current", revision, ordinal)
    if oldest_client > SCHEMA:
        raise SchemaError(
            f"{label} has schema {revision} ({ordinal}), this client knows up to {HEAD} ({SCHEMA})",
            hint="pip install --upgrade adapter-registry",
        )
    return _Found("newer", revision, ordinal)


def _check_application(connection: Connection, label: str, *, empty: bool) -> None:
    found = connection.exec_driver_sql("PRAGMA application_id").scalar()
    if found != APPLICATION_ID and not (empty and found == 0):
        raise SchemaError(
            f"{label} belongs to another program: application id {found}, expected {APPLICATION_ID}",
            hint="choose another --home",
        )


def _tables(connection: Connection) -> set[str]:
    if connection.dialect.name == "sqlite":
        query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite~_%' ESCAPE '~'"
    else:
        # Tables of extensions may share the schema.
        query = (
            "SELECT c.relname FROM pg_class c WHERE c.relkind IN ('r', 'p') "
            "AND c.relnamespace = current_schema()::regnamespace "
            "AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')"
        )
    return set(connection.execute(text(query)).scalars())


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, HEAD)


def _copy(file: Path, revision: str) -> Path:
    """A copy of the catalog as it is, beside it; the caller holds the write lock."""
    target = file.with_name(f"{file.name}.bak-{revision}")
    unfinished = target.with_name(f"{target.name}.tmp")
    try:
        unfinished.unlink(missing_ok=True)
        source = sqlite3.connect(file)
        try:
            source.execute("VACUUM INTO ?", (str(unfinished),))
        finally:
            source.close()
        with opened(unfinished, READ) as descriptor:
            os.fsync(descriptor)
        unfinished.replace(target)
        sync_folder(target.parent)
    except (OSError, sqlite3.Error) as error:
        unfinished.unlink(missing_ok=True)
        raise UnavailableError(f"{target}: cannot copy the catalog before its upgrade: {error}") from error
    return target


def _choose_journal(file: Path) -> None:
    """A write-ahead log where SQLite's is safe; the file remembers it. Losing a race for the lock changes nothing."""
    if sqlite3.sqlite_version_info < WAL_IS_SAFE_FROM:
        return
    connection = sqlite3.connect(file)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
    except sqlite3.OperationalError:
        return
    finally:
        connection.close()


def _make_folder(folder: Path) -> None:
    """Create a folder that survives a power cut, with its parents."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for place in missing:
            sync_folder(place.parent)
    except OSError as error:
        raise UnavailableError(f"{folder}: cannot be created: {error.strerror}") from error
