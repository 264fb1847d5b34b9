"""What the file system is asked for: durable folders, opening without following links, refusals in our words."""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

from registry.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
FOLDER = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY


class NotRegularError(OSError):
    """What was opened is a folder, device, pipe or socket."""


@contextmanager
def reaching(place: Path) -> Iterator[None]:
    """Turns the system's refusals (full, read-only, not permitted, broken) into UnavailableError naming the place."""
    try:
        yield
    except OSError as error:
        where = error.filename if isinstance(error.filename, (str, bytes)) else place
        raise UnavailableError(f"{os.fsdecode(where)}: {error.strerror or error}") from error


@contextmanager
def opened(path: Path | str, flags: int, *, mode: int = 0o600, folder: int | None = None) -> Iterator[int]:
    """A file descriptor, closed on the way out. `folder` is a descriptor that a relative `path` starts from."""
    descriptor = os.open(path, flags, mode, dir_fd=folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def reading(path: Path | str, *, folder: int | None = None) -> Iterator[int]:
    """A regular file opened for reading; a link, device or pipe is never followed, waited for or read."""
    with opened(path, READ, folder=folder) as descriptor:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise NotRegularError(f"{path} is not a regular file")
        yield descriptor


@contextmanager
def reading_beneath(folder: Path, relative: str) -> Iterator[int]:
    """A regular file below `folder`, no component of `relative` followed if it is, or has just become, a link."""
    *parents, name = relative.split("/")
    here = os.open(folder, FOLDER)
    try:
        for part in parents:
            below = os.open(part, FOLDER | os.O_NOFOLLOW, dir_fd=here)
            os.close(here)
            here = below
        with reading(name, folder=here) as descriptor:
            yield descriptor
    finally:
        os.close(here)


def clipped(name: str, size: int) -> str:
    """The beginning of a file's name, of at most `size` bytes: room for what is to stand beside it in another name."""
    return os.fsencode(name)[:size].decode(errors="ignore")


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder survive power loss."""
    with opened(folder, FOLDER) as descriptor:
        os.fsync(descriptor)


def sync_folders(folders: Iterable[Path]) -> None:
    """`sync_folder` for each, once."""
    for folder in sorted(set(folders), reverse=True):
        sync_folder(folder)


def make_folder(folder: Path, *, mode: int = 0o777) -> None:
    """Makes a folder and its missing parents, each made durable in its own parent before this returns."""
    missing = [place for place in (folder, *folder.parents) if not place.is_dir()]
    for place in reversed(missing):
        place.mkdir(mode=mode, exist_ok=True)
        sync_folder(place.parent)


def discard(path: Path) -> None:
    """Removes a file that may be gone already."""
    path.unlink(missing_ok=True)


def discard_tree(folder: Path) -> None:
    """Removes a folder of ours, also where its subfolders were made read-only; never follows a link."""
    for place, folders, files in os.walk(folder, topdown=True):
        os.chmod(place, 0o700)  # noqa: PTH101 (a folder that os.walk found is no link)
        for name in (*files, *(name for name in folders if os.path.islink(f"{place}/{name}"))):  # noqa: PTH114 (text)
            os.unlink(f"{place}/{name}")  # noqa: PTH108 (text)
    for place, _, _ in os.walk(folder, topdown=False):
        os.rmdir(place)  # noqa: PTH106 (text)
