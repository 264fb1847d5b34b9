"""What the Hub says a file's content is: sha256 for large files, git's sha1 of a blob for small ones."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from typing import Literal

from registry.errors import UnavailableError

_HEX = {"sha256": re.compile(r"[0-9a-f]{64}"), "git": re.compile(r"[0-9a-f]{40}")}
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Oid:
    """A content's name. `git` is sha1 over the header `blob <size>` and the bytes, as git names blobs."""

    kind: Literal["sha256", "git"]
    hex: str

    def __str__(self) -> str:
        return f"{'sha256' if self.kind == 'sha256' else 'git-sha1'}:{self.hex}"

    def of_file(self, descriptor: int) -> Oid:
        """The name, of this kind, of an open regular file's content."""
        size = os.fstat(descriptor).st_size
        digest = started(self.kind, size)
        os.lseek(descriptor, 0, os.SEEK_SET)
        while chunk := os.read(descriptor, _CHUNK):
            digest.update(chunk)
        os.lseek(descriptor, 0, os.SEEK_SET)
        return Oid(self.kind, digest.hexdigest())

    def of_bytes(self, content: bytes) -> Oid:
        """The name, of this kind, of some bytes."""
        digest = started(self.kind, len(content))
        digest.update(content)
        return Oid(self.kind, digest.hexdigest())


def started(kind: Literal["sha256", "git"], size: int) -> hashlib._Hash:
    """A hash to which the content of a file of `size` bytes is to be added."""
    if kind == "sha256":
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


def parse_oid(kind: Literal["sha256", "git"], text: object, *, path: str) -> Oid:
    """An oid from a listing; UnavailableError for what none can be."""
    if not isinstance(text, str) or not _HEX[kind].fullmatch(text):
        raise UnavailableError(f"{path}: the Hub lists it without a hash: expected {kind}, found {str(text)[:80]!r}")
    return Oid(kind, text)
