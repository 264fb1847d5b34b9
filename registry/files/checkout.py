"""A version's blobs become a directory that appears whole or not at all, hashed on the way."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from registry.errors import ConflictError, CorruptError
from registry.files.disk import reaching, reading_beneath, sync_folders
from registry.files.scratch import scratch_beside
from registry.files.transfer import hash_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from registry.results import FileEntry

_THREADS = 2
_TAKEN = {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}


class Source(Protocol):
    """Where verified bytes come from: a blob store, or a pulled version."""

    def copy_to(self, digest: str, destination: Path, *, mode: int = 0o444) -> int:
        """Makes a new, fsynced file of exactly these bytes; its size. CorruptError where the source's are wrong."""


def checkout(store: Source, files: Sequence[FileEntry], destination: Path, *, read_only: bool = True) -> None:
    """Writes the files to a folder beside `destination`, all verified and fsynced, then renames it into place.

    ConflictError where something other than an empty folder is there; CorruptError where a blob is wrong. Then, and
    after a crash, `destination` is as it was. `read_only`: files 0444 in folders 0555; otherwise as the umask says.
    """
    with prepared(store, files, destination, read_only=read_only) as folder:
        put(folder, destination)


def checkout_to(store: Source, files: Sequence[FileEntry], to: Path) -> None:
    """The caller's own, writable copy. A folder that holds exactly these bytes is left as it is; ConflictError for
    any other that is not empty, for a file, a link, and for the current folder, which a rename would pull away.
    """
    destination = Path(os.path.abspath(to.expanduser()))  # noqa: PTH100 (Path.absolute keeps `..`)
    if not os.path.lexists(destination):
        return checkout(store, files, destination, read_only=False)
    if destination.is_symlink() or not destination.is_dir():
        raise ConflictError(f"{destination} exists and is no folder")
    with reaching(destination):
        empty = not os.listdir(destination)  # noqa: PTH208 (only whether there is one)
    if not empty:
        if difference(destination, files) is None:
            return None
        raise ConflictError(f"{destination} exists and holds something else", hint="name a folder that does not exist")
    if destination.samefile(Path.cwd()):
        raise ConflictError(f"{destination} is the current folder", hint="name a folder that does not exist")
    return checkout(store, files, destination, read_only=False)


def difference(folder: Path, files: Sequence[FileEntry]) -> CorruptError | None:
    """The first way in which `folder` is not exactly these files, every byte hashed; None where it is."""
    expected = {entry.path: entry for entry in files}
    found = set()
    with reaching(folder):
        for path in _tree(folder):
            if path not in expected:  # found before the rest is listed: the folder may be a whole disk
                return CorruptError(str(folder / path), expected="no such file", actual="such a file")
            found.add(path)
    for path in sorted(expected.keys() - found):
        return CorruptError(str(folder / path), expected=expected[path].sha256, actual="no file")
    with ThreadPoolExecutor(_THREADS) as threads:
        actual = list(threads.map(lambda entry: _digest(folder, entry.path), files))
    for entry, digest in zip(files, actual, strict=True):
        if digest != entry.sha256:
            return CorruptError(str(folder / entry.path), expected=entry.sha256, actual=digest)
    return None


@contextmanager
def prepared(store: Source, files: Sequence[FileEntry], destination: Path, *, read_only: bool = True) -> Iterator[Path]:
    """A verified, fsynced folder beside `destination`; removed when the block ends unless it was moved away."""
    # What others may read is closed to them until it is whole; a copy of one's own is as the umask says from the start.
    mode = 0o700 if read_only else 0o777
    with scratch_beside(destination, mode=mode) as folder:
        with reaching(destination):
            _fill(store, files, folder, read_only=read_only)
        yield folder


def put(folder: Path, destination: Path) -> None:
    """Renames a prepared folder to its name and makes that durable; ConflictError where the name is taken."""
    with reaching(destination):
        try:
            folder.rename(destination)
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
            raise ConflictError(f"{destination} exists already") from None
        sync_folders([destination.parent])


def _fill(store: Source, files: Sequence[FileEntry], folder: Path, *, read_only: bool) -> None:
    folders = {folder, *((folder / entry.path).parent for entry in files)}
    for place in sorted(folders):
        place.mkdir(parents=True, exist_ok=True)
    mode = 0o444 if read_only else 0o666 & ~_umask(folder)
    with ThreadPoolExecutor(_THREADS) as threads:
        # Largest first, so that the two threads end together.
        ordered = sorted(files, key=lambda entry: -entry.size)
        for _ in threads.map(lambda entry: _copy(store, entry, folder / entry.path, mode), ordered):
            pass
    if read_only:
        for place in _up(folders, folder):
            place.chmod(0o555)
    sync_folders(_up(folders, folder))


def _copy(store: Source, entry: FileEntry, target: Path, mode: int) -> None:
    size = store.copy_to(entry.sha256, target, mode=mode)
    if size != entry.size:
        raise CorruptError(str(target), expected=f"{entry.size} bytes", actual=f"{size} bytes")


def _up(folders: set[Path], top: Path) -> list[Path]:
    """All folders from `top` down, deepest first."""
    every = {place for folder in folders for place in (folder, *folder.parents) if place.is_relative_to(top)}
    return sorted(every, reverse=True)


def _umask(folder: Path) -> int:
    """What the process masks, read from a folder just made: asking os.umask would change it for other threads."""
    return 0o777 & ~folder.stat().st_mode


def _tree(folder: Path, above: str = "") -> Iterator[str]:
    """Every file below, and every link or device; a folder only through what is in it."""
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda one: one.name):
            if entry.is_dir(follow_symlinks=False):
                yield from _tree(Path(entry.path), f"{above}{entry.name}/")
            else:
                yield f"{above}{entry.name}"


def _digest(folder: Path, path: str) -> str:
    try:
        with reading_beneath(folder, path) as descriptor:
            return hash_file(descriptor).digest
    except OSError as error:
        return f"a file that cannot be read ({error.strerror or error})"
