"""Files of a pulled version in a folder of the caller, without another download: clones, links or copies."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry.errors import ConflictError, CorruptError, UnavailableError
from registry.files.checkout import checkout_to
from registry.files.disk import CREATE, discard, opened, reaching, reading, reading_beneath
from registry.files.transfer import Content, copy_hashed, hash_file
from registry.pulls.entry import entry_folder, lock_of
from registry.pulls.pulled import ensure_pulled
from registry.pulls.turns import in_use
from registry.store.folder import FolderStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from registry.files.checkout import Source
    from registry.results import FileEntry
    from registry.values.progress import Notice

_FICLONE = 0x40049409  # ioctl(2): the target shares the source's blocks until either is written to


def copy_out(
    store: Source, digest: str, files: Sequence[FileEntry], pulled_root: Path, to: Path, *, link: bool, notice: Notice
) -> None:
    """The caller's own copy at `to`, from the cache where the version is there or the store is far away.

    A cache that is damaged and cannot be repaired, or cannot be written, is passed by: the store has the bytes too.
    """
    folder = entry_folder(pulled_root, digest)
    if os.path.isdir(folder):  # noqa: PTH112 (it never raises)
        with suppress(CorruptError, UnavailableError):
            return copy_from_cache(folder, files, to, link=link)
    elif isinstance(store, FolderStore) and not link:
        return checkout_to(store, files, to)
    try:
        ensure_pulled(store, digest, files, pulled_root, notice=notice)
    except (CorruptError, UnavailableError):
        return checkout_to(store, files, to)
    return copy_from_cache(folder, files, to, link=link)


def copy_from_cache(folder: Path, files: Sequence[FileEntry], to: Path, *, link: bool) -> None:
    """A checkout of what lies in the cache; CorruptError where that is wrong."""
    with in_use(lock_of(folder)):
        checkout_to(PulledFiles(folder, {entry.sha256: entry.path for entry in files}, link), files, to)


@dataclass(frozen=True, slots=True)
class PulledFiles:
    """A pulled version as the source of a checkout. With `link`, a file is one more name of the cache's own where the
    system allows that, and otherwise a copy that is read-only all the same.
    """

    folder: Path
    paths: dict[str, str]  # digest -> path in the folder
    link: bool = False

    def copy_to(self, digest: str, destination: Path, *, mode: int = 0o444) -> int:
        """Makes a new file of these bytes, hashed where they then are, and returns its size. CorruptError where the
        folder's are wrong, ConflictError where something is at the destination; nothing of ours is left there then.
        """
        path = self.paths[digest]
        with reaching(destination):
            if os.path.lexists(destination):
                raise ConflictError(f"{destination} exists already")
            try:
                content = self._linked(path, destination) if self.link else None
                if content is None:
                    content = self._copied(path, destination, 0o444 if self.link else mode)
                self._check(path, digest, content.digest)
            except BaseException:
                discard(destination)
                raise
        return content.size

    def _check(self, path: str, digest: str, actual: str) -> None:
        if actual != digest:
            raise CorruptError(str(self.folder / path), expected=digest, actual=actual)

    def _linked(self, path: str, destination: Path) -> Content | None:
        """None where it cannot be linked: another file system, another user's file, too many links."""
        try:
            os.link(self.folder / path, destination, follow_symlinks=False)
        except OSError:
            return None
        with reading(destination) as descriptor:
            return hash_file(descriptor)

    def _copied(self, path: str, destination: Path, mode: int) -> Content:
        with self._origin(path) as origin, opened(destination, CREATE & ~os.O_WRONLY | os.O_RDWR) as target:
            os.fchmod(target, mode)
            return _cloned(origin, target) or copy_hashed(origin, target)

    @contextmanager
    def _origin(self, path: str) -> Iterator[int]:
        """Only opening is the pulled version's fault; what happens inside the block is not."""
        manager = reading_beneath(self.folder, path)
        try:
            descriptor = manager.__enter__()
        except OSError as error:
            found = error.strerror or str(error)
            raise CorruptError(str(self.folder / path), expected="a file", actual=found) from None
        try:
            yield descriptor
        finally:
            manager.__exit__(None, None, None)


def _cloned(source: int, target: int) -> Content | None:
    """None where the file system cannot share blocks, or not between these two files."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return None
    content = hash_file(target)
    os.fsync(target)
    return content
