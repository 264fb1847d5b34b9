"""A copy of a SQLite catalog while it is in use: whole pages through SQLite itself, checked before it gets its name."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from registry.disk import READ, opened, reaching, sync_folder
from registry.errors import ConflictError, CorruptError, UnavailableError, UsageError
from registry.results import BackupResult
from registry.scratch import scratch_beside

if TYPE_CHECKING:
    from pathlib import Path

    from registry.database import Database

# Writers wait while pages are copied; they give up after 30 s, so a copy in one piece must not take longer on any disk.
_PATIENCE_S = 30.0


def back_up(database: Database, to: Path, *, force: bool) -> BackupResult:
    """Copy the catalog to a new file: one state of it, its integrity checked, durable, under its name whole or not.

    In one piece, because a copy in steps begins anew with every write in between. UsageError on PostgreSQL, whose
    `pg_dump` does this.
    """
    if database.file is None:
        raise UsageError(f"{database.label}: a PostgreSQL catalog is backed up by pg_dump", hint="docs/operations.md")
    if os.path.lexists(to) and (not force or to.is_dir()):
        raise ConflictError(f"{to} exists already", hint="adapters backup --force replaces a file")
    with reaching(to.parent), scratch_beside(to) as folder:
        temporary = folder / "catalog.db"
        versions = _copy(database.file, temporary)
        with opened(temporary, READ) as descriptor:
            os.fsync(descriptor)
            size = os.fstat(descriptor).st_size
        if force:
            temporary.replace(to)
        else:
            _link(temporary, to)
        sync_folder(to.parent)
    return BackupResult(database=database.label, path=str(to), size=size, versions=versions)


def _copy(file: str, target: Path) -> int:
    try:
        with closing(sqlite3.connect(file, timeout=_PATIENCE_S)) as source, closing(sqlite3.connect(target)) as copy:
            source.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")  # one file, whatever the catalog uses
            found = str(copy.execute("PRAGMA quick_check(1)").fetchone()[0])
            if found != "ok":
                raise CorruptError(file, expected="an undamaged database", actual=found, hint="adapters fsck")
            return int(copy.execute("SELECT count(*) FROM versions").fetchone()[0])
    except sqlite3.Error as error:
        raise UnavailableError(f"database {file}: cannot be copied: {error}") from error


def _link(temporary: Path, to: Path) -> None:
    try:
        to.hardlink_to(temporary)  # unlike a rename, never over what came there meanwhile
    except FileExistsError:
        raise ConflictError(f"{to} exists already", hint="adapters backup --force replaces a file") from None
