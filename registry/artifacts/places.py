"""Where an artifact lies: folders of a host, and whether their files look as they did."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.artifacts.results import ArtifactPlace

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from registry.artifacts.contents import Contents

Stamp = tuple[int, int]
"""Bytes, and the time of the last change in nanoseconds."""


@dataclass(frozen=True, slots=True)
class Place:
    """A folder, absolute, on a host; `files` are the artifact's, with how each looked when all were right."""

    host: str
    path: str
    files: Mapping[str, Stamp]

    def as_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "host": self.host,
            "path": self.path,
            "files": {name: list(stamp) for name, stamp in self.files.items()},
        }

    @classmethod
    def of_json(cls, value: Mapping[str, Any]) -> Place:
        """The inverse of `as_json`."""
        files = {name: (int(size), int(moment)) for name, (size, moment) in value["files"].items()}
        return cls(str(value["host"]), str(value["path"]), files)

    @property
    def here(self) -> bool:
        """Whether this host is meant. Containers that share a name are told apart by what lies there."""
        return self.host == here()

    @property
    def state(self) -> str:
        """`unchanged`, `changed`, `missing` or `elsewhere`; nothing is hashed."""
        if not self.here:
            return "elsewhere"
        if not os.path.lexists(self.path):
            return "missing"
        return "unchanged" if self._now() == dict(self.files) else "changed"

    @property
    def edited(self) -> bool:
        """Whether one of the files is there and looks otherwise; one that is gone is not edited."""
        return any(stamp not in (None, self.files[name]) for name, stamp in self._now().items())

    def _now(self) -> dict[str, Stamp | None]:
        return {name: _stamp(Path(self.path) / name) for name in self.files}

    def told(self) -> ArtifactPlace:
        """For people and JSON."""
        return ArtifactPlace(self.host, self.path, self.state)


def here() -> str:
    """The name of this host."""
    return socket.gethostname()[:100]


def place_of(folder: Path, contents: Contents, *, seen: Path | None = None) -> Place:
    """A folder that holds these contents; `seen` is where they lie now, on their way there."""
    files = {one.path: _stamp((seen or folder) / one.path) or (one.size, 0) for one in contents}
    return Place(here(), str(folder), files)


def with_place(places: Iterable[Place], place: Place) -> list[Place]:
    """The places with this one, which replaces an older word about the same folder."""
    return [*without(places, place.path), place]


def without(places: Iterable[Place], path: str) -> list[Place]:
    """The places without this folder of this host."""
    return [one for one in places if not (one.here and one.path == path)]


def _stamp(file: Path) -> Stamp | None:
    try:
        known = file.lstat()
    except OSError:
        return None
    return known.st_size, known.st_mtime_ns
