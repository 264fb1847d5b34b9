"""What a blob store does, wherever it keeps the bytes: place, open, verify, copy out, list, delete."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from registry.catalog.database import Database
    from registry.files.staging import StagedFile, Staging
    from registry.files.transfer import Content

DISCARD_S = 20.0


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """One blob as the store lists it; `mtime` in seconds since the epoch, by the store's clock."""

    digest: str
    size: int
    mtime: float


@dataclass(frozen=True, slots=True)
class StoreCheck:
    """One thing that was tried on a store; `status` is `ok`, `warning` or `fail`."""

    name: str
    detail: str
    status: str = "ok"


class BlobStore(Protocol):
    """Bytes under their sha256. What is read is hashed, and never returned where it is wrong.

    Files are always prepared in a local folder below `staging_root`; where blobs lie after that only the store knows.
    Every method raises UnavailableError where the store cannot be used, UsageError for anything but a whole digest.
    """

    @property
    def label(self) -> str:
        """Where the blobs are, for people: a folder, or a URL that holds no secret."""

    @property
    def staging_root(self) -> Path:
        """The local folder in which staging folders are made."""

    def prepare(self) -> None:
        """Creates what is missing and may be created, and tries what this store must be able to do."""

    def take_over(self, database: Database) -> None:
        """Makes a catalog without versions the owner of this store, before it is rebuilt from it; ConflictError where
        the store is another's.
        """

    def checks(self) -> Sequence[StoreCheck]:
        """What `doctor` tells of the store. Leaves nothing behind; a failure is a row, not an error."""

    def require(self) -> None:
        """UnavailableError where there is no store at all: then a missing blob says nothing about that blob."""

    def staging(self) -> AbstractContextManager[Staging]:
        """A locked folder to prepare files in; what is not placed is removed when the block ends."""

    def place(self, *files: StagedFile) -> None:
        """Stores staged files under their digests, durably, whether or not they are there already. What lies there
        afterwards was verified: no row may name a blob before this returns.
        """

    def put_bytes(self, content: bytes) -> str:
        """Stages and places a small blob; returns its digest."""

    def exists(self, digest: str) -> bool:
        """Whether a blob of that name is there; its bytes are not looked at."""

    def size(self, digest: str) -> int:
        """Bytes, as the store knows them; MissingBlobError where there is no such blob."""

    def open(self, digest: str) -> BinaryIO:
        """An open file, readable for as long as it is open. It may be unverified: hash what is read, or use read_bytes
        and copy_to.
        """

    def read_bytes(self, digest: str) -> bytes:
        """All bytes of a small blob; CorruptError where they are not the digest's."""

    def verify(self, digest: str) -> Content:
        """Reads and hashes a whole blob; CorruptError where its bytes are not the digest's."""

    def copy_to(self, digest: str, destination: Path, *, mode: int = 0o444) -> int:
        """Copies a blob to a new local file, fsynced, and returns its size. CorruptError where the bytes are wrong,
        ConflictError where something is there; nothing is left at the destination then.
        """

    def delete(self, digest: str) -> bool:
        """Removes a blob; False where it was not there."""

    def strays(self) -> Iterator[str]:
        """Names of whatever lies in the store and is no blob."""

    def stale_staging(self) -> list[Path]:
        """Staging folders of processes that are gone."""

    def clear_stale(self) -> int:
        """Removes what processes that are gone left half-done; returns how many such things that were."""

    @property
    def discards_at_once(self) -> int:
        """How many blobs `discard` takes."""

    def discard(self, digests: Sequence[str]) -> None:
        """Removes some blobs, whether or not they are there, each asked for once. It is done, or fails, within
        DISCARD_S; where it fails, a request may still be on its way.
        """

    def list(self) -> Iterator[StoredBlob]:
        """Every blob, in order of digest; one that comes or goes meanwhile may or may not appear."""
