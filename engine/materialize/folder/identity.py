"""Which files a plan was made from, so that one that changes while it is read is noticed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.errors import ChangedError
from engine.format.adapter import CONFIG_NAME, WEIGHTS_NAME
from engine.format.base import weight_files

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from engine.materialize.request import Request


@dataclass(frozen=True, slots=True)
class Identity:
    """What the system says of a file; `modified` in nanoseconds."""

    device: int
    inode: int
    size: int
    modified: int


def source_identities(request: Request) -> dict[Path, Identity]:
    """Of every file that decides a tensor. Raises BaseError for a base without its weights."""
    weights = [file.resolve() for file, _ in weight_files(request.base)]
    adapters = [source.path / name for source in request.sources for name in (CONFIG_NAME, WEIGHTS_NAME)]
    return identities((*weights, *adapters))


def identities(files: Iterable[Path]) -> dict[Path, Identity]:
    """Files that are missing are left to their readers, who say so."""
    return {file: identity(file) for file in files if file.exists()}


def check_unchanged(known: Mapping[Path, Identity]) -> None:
    """Raises ChangedError naming a file that is no longer what it was."""
    for file, known_as in known.items():
        if not file.exists() or identity(file) != known_as:
            raise ChangedError(file)


def identity(file: Path) -> Identity:
    """What the file at this path is now; raises FileNotFoundError where there is none."""
    found = file.stat()
    return Identity(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
