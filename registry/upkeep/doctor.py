"""What a person needs to know when something is wrong: places, versions, and whether each can be used."""

from __future__ import annotations

import importlib.util
import shutil
import sqlite3
import sys
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select, text

from registry.catalog.schema import HEAD
from registry.errors import UnavailableError
from registry.models import Adapter, Blob, Lease, Version
from registry.results import RegistryStatus

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from registry.catalog.database import Database
    from registry.handle import Handle
    from registry.settings import Settings
    from registry.store.blobs import BlobStore

_EXTRAS = ("torch", "transformers", "bitsandbytes", "psycopg", "obstore")
_LITTLE_SPACE = 1 << 30


def examine_registry(handle: Handle, settings: Settings) -> RegistryStatus:
    """Look at everything, change nothing. Each check has a name, a status (`ok`, `warning`, `fail`) and a detail.

    A database that cannot be used is a failed check like any other: what else is wrong is told all the same.
    """
    revision: str | None = HEAD
    try:
        database = handle.database
        with database.reading() as session:
            checks = [_database_check(session, database), _counts(session), _leases(session)]
    except UnavailableError as error:
        revision = None
        checks = [_check("database", " ".join(filter(None, (str(error), error.hint))), status="fail")]
    checks += [_settings(settings), *_store_checks(handle.store), _space(settings), _python(), _extras()]
    return RegistryStatus(handle.unchecked.place, handle.store.label, revision, checks=tuple(checks))


def _check(name: str, detail: str, *, status: str = "ok") -> dict[str, Any]:
    return {"name": name, "status": status, "detail": detail}


def _database_check(session: Session, database: Database) -> dict[str, Any]:
    if not database.is_sqlite:
        return _check("database", str(session.scalar(text("SELECT version()"))))
    mode = session.scalar(text("PRAGMA journal_mode"))
    level = {0: "off", 1: "normal", 2: "full", 3: "extra"}.get(int(session.scalar(text("PRAGMA synchronous")) or 0))
    why = "concurrent writers can corrupt a write-ahead log before SQLite 3.51.3" if mode == "delete" else "WAL is safe"
    return _check("database", f"SQLite {sqlite3.sqlite_version}, journal {mode}, synchronous {level}: {why}")


def _counts(session: Session) -> dict[str, Any]:
    numbers = {
        name: session.scalar(select(func.count()).select_from(table))
        for name, table in (("adapters", Adapter), ("versions", Version), ("blobs", Blob))
    }
    return _check("catalog", ", ".join(f"{count} {name}" for name, count in numbers.items()))


def _settings(settings: Settings) -> dict[str, Any]:
    """Which file and context say where the registry is; warned of: a password there, an actor that no row takes."""
    named = f"context {settings.chosen.name} of " if settings.chosen.name else ""
    told = (
        f"{named}{settings.chosen.source}" if settings.chosen.source else "no adapters.toml says where the registry is"
    )
    notes = (*settings.notes, *filter(None, (settings.actor_problem,)))
    return _check("settings", "; ".join((told, *notes)), status="warning" if notes else "ok")


def _leases(session: Session) -> dict[str, Any]:
    count = session.scalar(select(func.count()).select_from(Lease)) or 0
    return _check("leases", f"{count} pushes running or interrupted; gc drops those that are gone")


def _store_checks(store: BlobStore) -> list[dict[str, Any]]:
    return [_check(one.name, one.detail, status=one.status) for one in store.checks()]


def _space(settings: Settings) -> dict[str, Any]:
    place = next(folder for folder in (settings.home, *settings.home.parents) if folder.exists())
    free = shutil.disk_usage(place).free
    return _check("space", f"{free / 1e9:.1f} GB free at {place}", status="ok" if free > _LITTLE_SPACE else "warning")


def _python() -> dict[str, Any]:
    return _check("python", sys.version.split()[0])


def _extras() -> dict[str, Any]:
    found = [name for name in _EXTRAS if importlib.util.find_spec(name) is not None]
    missing = [name for name in _EXTRAS if name not in found]
    return _check("extras", f"installed: {', '.join(found) or 'none'}; not installed: {', '.join(missing) or 'none'}")
