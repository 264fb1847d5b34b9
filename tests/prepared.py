"""Registries that tests start from: pushed once per process, then copied for each test that asks."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.factories import make_settings
from tests.postgres import Content, content_of, give
from tests.registries import open_registry

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from registry.api import Registry

    Build = Callable[[Registry, Path], object]


@dataclass(frozen=True, slots=True)
class _Made:
    folder: Path
    content: Content | None


class Prepared:
    """What this process has made by now. A class because it keeps that for the next test."""

    def __init__(self, place: Path, sqlite_template: Path) -> None:
        self._place = place
        self._template = sqlite_template
        self._made: dict[tuple[Build, bool], _Made] = {}

    def bring(self, build: Build, folder: Path, database_url: str) -> None:
        """Leaves in a folder, at `folder / "home"` and in an unused database what `build(registry, folder)` makes."""
        in_file = database_url.startswith("sqlite")
        made = self._made.get((build, in_file))
        if made is None:
            made = self._made[build, in_file] = self._make(build, database_url)
        shutil.copytree(made.folder, folder, dirs_exist_ok=True)
        if made.content is not None:
            give(database_url, made.content.moved(str(made.folder), str(folder)))
        else:
            _move(make_settings(folder / "home").catalog_file, str(made.folder), str(folder))

    def _make(self, build: Build, database_url: str) -> _Made:
        folder = self._place / str(len(self._made))
        in_file = database_url.startswith("sqlite")
        catalog = make_settings(folder / "home").catalog_file
        catalog.parent.mkdir(parents=True)
        if in_file:
            shutil.copyfile(self._template, catalog)
        registry = open_registry(folder / "home", database_url)
        build(registry, folder)
        registry.close()
        return _Made(folder, None if in_file else content_of(database_url))


def _move(catalog: Path, old: str, new: str) -> None:
    """Puts the new folder in every path; a base that was given by its path has that for a name."""
    columns = "SELECT t.name, c.name FROM sqlite_master t JOIN pragma_table_info(t.name) c WHERE t.type = 'table'"
    with closing(sqlite3.connect(catalog)) as connection:
        for table, column in connection.execute(columns).fetchall():
            change = f"UPDATE {table} SET {column} = replace({column}, ?, ?) WHERE instr({column}, ?)"
            connection.execute(change, [f"{old}/", f"{new}/", f"{old}/"])
        connection.commit()
