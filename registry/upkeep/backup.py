"""A copy of a SQLite catalog while it is in use: whole pages through SQLite itself, checked before it gets its name."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from registry.errors import CorruptError, UnavailableError, UsageError
from registry.files.newfile import new_file
from registry.results import BackupResult

if TYPE_CHECKING:
    from pathlib import Path

    from registry.catalog.database import Database

# Writers wait while pages are copied; they give up after 30 s, so a copy in one piece must not take longer on any disk.
_PATIENCE_S = 30.0


def back_up(database: Database, to: Path, *, force: bool) -> BackupResult:
    """Copy the catalog to a new file: one state of it, its integrity checked, durable, under its name whole or not.

    In one piece, because a copy in steps begins anew with every write in between. UsageError on PostgreSQL, whose
    `pg_dump` does this.
    """
    if database.file is None:
        raise UsageError(f"{database.label}: a PostgreSQL catalog is backed up by pg_dump", hint="docs/operations.md")
    with new_file(to, force=force, command="backup") as temporary:
        versions = _copy(database.file, temporary)
        size = temporary.stat().st_size
    return BackupResult(database=database.place, path=str(to), size=size, versions=versions)


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
