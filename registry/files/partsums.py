"""sha256 of each part of a large file, made while it is staged: what a store may compare each part with."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry.files.transfer import CHUNK

if TYPE_CHECKING:
    from hashlib import _Hash

LARGE = 256 << 20  # below this, asking the store takes longer than hashing again
PART = 16 << 20
_MOST_PARTS = 10_000


@dataclass(frozen=True, slots=True)
class PartSums:
    """Bytes of each part but the last, and the sha256 of each."""

    size: int
    sums: tuple[bytes, ...]

    @property
    def composite(self) -> str:
        """The checksum of an object stored in these parts, as S3 makes it; S3 tells it with `-` and their number."""
        return encoded(hashlib.sha256(b"".join(self.sums)).digest())


class Summing:
    """Takes a file's chunks, of CHUNK bytes each but the last."""

    def __init__(self, size: int) -> None:
        self._size = part_size(size)
        self._sums: list[bytes] = []
        self._open: _Hash = hashlib.sha256()
        self._filled = 0

    def update(self, chunk: memoryview) -> None:
        """One more chunk; none lies in two parts."""
        self._open.update(chunk)
        self._filled += len(chunk)
        if self._filled >= self._size:
            self._close()

    def done(self) -> PartSums:
        """All of them, once the last chunk was taken."""
        if self._filled:
            self._close()
        return PartSums(self._size, tuple(self._sums))

    def _close(self) -> None:
        self._sums.append(self._open.digest())
        self._open, self._filled = hashlib.sha256(), 0


def part_size(size: int) -> int:
    """Whole chunks, and not more parts than a store takes."""
    return max(PART, -(-size // _MOST_PARTS // CHUNK) * CHUNK)


def encoded(digest: bytes) -> str:
    """A sum as S3's headers carry it."""
    return base64.b64encode(digest).decode()
