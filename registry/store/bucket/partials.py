"""Downloads that were interrupted: kept with their first bytes, so that the next one asks for the rest."""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from registry.files.disk import discard, make_folder
from registry.values.digests import hex_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from registry.store.bucket.downloads import Hashed

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_SUFFIX = ".partial"
_BLOCK = 4 << 20
KEPT = 86_400  # seconds


@contextmanager
def partial(folder: Path, digest: str) -> Iterator[int | None]:
    """A descriptor of the file in which a blob's first bytes are, alone while the block lasts; None while another
    process is at it. The file stays when the block fails, and is nobody's business when it ends well: take it or leave.
    """
    make_folder(folder)
    descriptor = os.open(_path(folder, digest), _FLAGS, 0o600)
    alone = _alone(descriptor, _path(folder, digest))
    try:
        yield descriptor if alone else None
    finally:
        if alone and os.fstat(descriptor).st_size == 0:
            drop(folder, digest)
        os.close(descriptor)


def written(descriptor: int) -> Hashed:
    """The hash state over what a file holds, and how much that is; the position is at its end then."""
    state, size = hashlib.sha256(), 0
    os.lseek(descriptor, 0, os.SEEK_SET)
    while block := os.read(descriptor, _BLOCK):
        state.update(block)
        size += len(block)
    return state, size


def take(folder: Path, digest: str, destination: Path) -> None:
    """Gives the finished file its place; FileExistsError where something is there, OSError on another file system."""
    os.link(_path(folder, digest), destination)
    discard(_path(folder, digest))


def drop(folder: Path, digest: str) -> None:
    """Forgets what was downloaded."""
    discard(_path(folder, digest))


def stale_partials(folder: Path) -> list[Path]:
    """Those that no process is at and none has been for a day, sorted."""
    return sorted(path for path in _files(folder) if _forgotten(path, remove=False))


def clear_partials(folder: Path) -> int:
    """Removes those; returns how many."""
    return sum(_forgotten(path, remove=True) for path in list(_files(folder)))


def _path(folder: Path, digest: str) -> Path:
    return folder / f"{hex_of(digest)}{_SUFFIX}"


def _alone(descriptor: int, path: Path) -> bool:
    """Whether the lock is ours, on the file that still has the name."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.fstat(descriptor).st_ino == path.stat().st_ino
    except (BlockingIOError, FileNotFoundError):
        return False


def _files(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from folder.glob(f"*{_SUFFIX}")


def _forgotten(path: Path, *, remove: bool) -> bool:
    with suppress(FileNotFoundError):
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            if time.time() - os.fstat(descriptor).st_mtime < KEPT or not _alone(descriptor, path):
                return False
            if remove:
                path.unlink()
            return True
        finally:
            os.close(descriptor)
    return False
