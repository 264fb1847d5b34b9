"""Blobs in a local folder: `sha256/ab/<64 hex>`, written once, read-only, verified whenever bytes are read back."""

from __future__ import annotations

import errno
import os
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from registry.errors import ConflictError, CorruptError, MissingBlobError, UnavailableError
from registry.files import scratch
from registry.files.disk import CREATE, NotRegularError, discard, make_folder, opened, reaching, reading, sync_folders
from registry.files.staging import Staging
from registry.files.transfer import Content, copy_hashed, hash_file
from registry.store.blobs import StoreCheck, StoredBlob
from registry.values.digests import digest_of, hex_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from registry.catalog.database import Database
    from registry.files.staging import StagedFile

_FAN_OUT = re.compile(r"[0-9a-f]{2}", re.ASCII)
_HEX = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class FolderStore:
    """A BlobStore under `root`; `staging_root` is on the same file system, so that a rename puts a file in place.

    Every method raises UnavailableError, naming the path and the system's words, where the store cannot be used.
    """

    root: Path
    staging_root: Path

    @property
    def label(self) -> str:
        """The folder."""
        return str(self.root)

    def prepare(self) -> None:
        """Makes the folder."""
        with reaching(self.root):
            make_folder(self.root)

    def take_over(self, database: Database) -> None:
        """Nothing to do: a folder tells of no owner."""

    def checks(self) -> tuple[StoreCheck, ...]:
        """Whether it can be written."""
        place = next(folder for folder in (self.root, *self.root.parents) if folder.exists())
        # Asked of the mount too: root may write anywhere but on a read-only file system.
        writable = os.access(place, os.W_OK) and not os.statvfs(place).f_flag & os.ST_RDONLY
        can = "can" if writable else "cannot"
        return (StoreCheck("store", f"{self.root} {can} be written", "ok" if writable else "fail"),)

    def require(self) -> None:
        """UnavailableError where there is no folder."""
        if not self.root.is_dir():
            raise UnavailableError(f"{self.root}: no blob store here")

    @contextmanager
    def staging(self) -> Iterator[Staging]:
        """A locked folder to prepare files in; what is not placed is removed when the block ends."""
        with scratch.scratch_folder(self.staging_root) as folder, ThreadPoolExecutor(1) as syncs:
            yield Staging(folder, syncs)

    def place(self, *files: StagedFile) -> None:
        """Moves staged files to their names and makes those durable. A file already there is replaced: these bytes
        are known good. Power loss after the return loses none of them.
        """
        for file in files:
            file.settle()
        with reaching(self.root):
            for file in files:
                target = self.path(file.digest)
                make_folder(target.parent)
                file.path.replace(target)
            folders = {self.path(file.digest).parent for file in files}
            sync_folders({*folders, *(folder.parent for folder in folders), self.root})

    def put_bytes(self, content: bytes) -> str:
        """Stages and places a small blob; returns its digest."""
        with self.staging() as folder:
            staged = folder.add(content, name="blob")
            self.place(staged)
        return staged.digest

    def path(self, digest: str) -> Path:
        """Where a blob lies, whether or not it is there; UsageError for anything but a whole digest."""
        name = hex_of(digest)
        return self.root / "sha256" / name[:2] / name

    def exists(self, digest: str) -> bool:
        """Whether a regular file of that name is there; its bytes are not looked at."""
        with reaching(self.path(digest)):
            known = _stat(self.path(digest))
        return known is not None and stat.S_ISREG(known.st_mode)

    def size(self, digest: str) -> int:
        """Bytes, as the file system knows them; MissingBlobError where there is no such blob."""
        with self._reading(digest) as descriptor:
            return os.fstat(descriptor).st_size

    def open(self, digest: str) -> BinaryIO:
        """An open file. It is not verified: hash what is read, or use read_bytes and copy_to."""
        with self._reading(digest) as descriptor:
            return os.fdopen(os.dup(descriptor), "rb")

    def read_bytes(self, digest: str) -> bytes:
        """All bytes of a small blob; CorruptError where they are not the digest's."""
        with self.open(digest) as file, reaching(self.path(digest)):
            content = file.read()
        self._check(digest, digest_of(content))
        return content

    def verify(self, digest: str) -> Content:
        """Hashes a blob where it lies; CorruptError where its bytes are not the digest's."""
        with self._reading(digest) as descriptor, reaching(self.path(digest)):
            content = hash_file(descriptor)
        self._check(digest, content.digest)
        return content

    def copy_to(self, digest: str, destination: Path, *, mode: int = 0o444) -> int:
        """Copies a blob to a new file, fsynced, and returns its size. CorruptError where the bytes are wrong,
        ConflictError where something is there; nothing is left at the destination then.
        """
        with self._reading(digest) as source, reaching(destination):
            try:
                content = _copy(source, destination, mode)
                self._check(digest, content.digest)
            except FileExistsError:
                raise ConflictError(f"{destination} exists already") from None
            except BaseException:
                discard(destination)
                raise
        return content.size

    def strays(self) -> Iterator[str]:
        """Whatever lies in the store and is no blob."""
        for entry in self._entries():
            if not _is_blob(entry):
                yield entry.path

    def delete(self, digest: str) -> bool:
        """Removes a blob; False where it was not there."""
        path = self.path(digest)
        with reaching(path):
            try:
                path.unlink()
            except FileNotFoundError:
                return False
        return True

    @property
    def discards_at_once(self) -> int:
        """One: each is a system call of its own."""
        return 1

    def discard(self, digests: Sequence[str]) -> None:
        """Removes some blobs, whether or not they are there."""
        for digest in digests:
            self.delete(digest)

    def stale_staging(self) -> list[Path]:
        """Staging folders of processes that are gone."""
        return scratch.stale_folders(self.staging_root)

    def clear_stale(self) -> int:
        """Removes those; returns how many."""
        return scratch.clear_stale(self.staging_root)

    def list(self) -> Iterator[StoredBlob]:
        """Every blob, in order of digest within each fan-out folder; one that goes meanwhile may or may not appear."""
        for entry in self._entries():
            if _is_blob(entry) and (known := _stat(entry)):
                yield StoredBlob(f"sha256:{entry.name}", known.st_size, known.st_mtime)

    @contextmanager
    def _reading(self, digest: str) -> Iterator[int]:
        path = self.path(digest)
        manager = reading(path)
        try:
            descriptor = manager.__enter__()
        except OSError as error:
            raise self._refusal(digest, error) from error
        try:
            yield descriptor
        finally:
            manager.__exit__(None, None, None)

    def _refusal(self, digest: str, error: OSError) -> CorruptError | UnavailableError:
        path = self.path(digest)
        if isinstance(error, FileNotFoundError):
            if not self.root.is_dir():
                return UnavailableError(f"{self.root}: no blob store here")
            return MissingBlobError(str(path), expected=digest, actual="no file")
        if isinstance(error, NotRegularError) or error.errno == errno.ELOOP:
            return CorruptError(str(path), expected=digest, actual="no regular file")
        return UnavailableError(f"{path}: {error.strerror or error}")

    def _check(self, digest: str, actual: str) -> None:
        if actual != digest:
            raise CorruptError(str(self.path(digest)), expected=digest, actual=actual)

    def _entries(self) -> Iterator[os.DirEntry[str]]:
        with reaching(self.root):
            for fan_out in _scan(self.root / "sha256"):
                if _FAN_OUT.fullmatch(fan_out.name) and fan_out.is_dir(follow_symlinks=False):
                    yield from _scan(Path(fan_out.path))
                else:
                    yield fan_out


def _copy(source: int, destination: Path, mode: int) -> Content:
    with opened(destination, CREATE) as target:
        os.fchmod(target, mode)
        return copy_hashed(source, target)


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except FileNotFoundError:
        return []


def _stat(entry: os.DirEntry[str] | Path) -> os.stat_result | None:
    try:
        return entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None


def _is_blob(entry: os.DirEntry[str]) -> bool:
    if not _HEX.fullmatch(entry.name) or Path(entry.path).parent.name != entry.name[:2]:
        return False
    known = _stat(entry)
    return known is not None and stat.S_ISREG(known.st_mode)
