"""What an artifact's files hold: each a row of pieces, of which every tensor of a safetensors file is one."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import HeaderError
from engine.format.files.header import parse_header
from engine.format.files.loadable import is_loadable
from registry.errors import CorruptError
from registry.files.disk import reaching, reading_beneath
from registry.values.digests import digest_of
from registry.values.strictjson import canonical_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from engine.format.files.tensors import Header

WEIGHTS = ".safetensors"
_CHUNK = 4 << 20
_THREADS = 2
_LENGTH = 8
_LEFT_BEHIND = frozenset({"__pycache__", ".DS_Store"})
_LARGEST_HEADER = 100_000_000


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of a file's bytes: a tensor of this name, or with an empty name a header or a whole file."""

    name: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Content:
    """A file: the concatenation of its pieces."""

    path: str
    pieces: tuple[Piece, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(piece.size for piece in self.pieces)

    def as_json(self) -> list[Any]:
        """Compact: the path, then name, 64 hex and size of each piece."""
        return [self.path, [[one.name, one.sha256.removeprefix("sha256:"), one.size] for one in self.pieces]]

    @classmethod
    def of_json(cls, value: Sequence[Any]) -> Content:
        """The inverse of `as_json`."""
        path, pieces = value
        return cls(path, tuple(Piece(name, f"sha256:{digest}", size) for name, digest, size in pieces))


Contents = tuple[Content, ...]
Known = dict[tuple[str, str], str]
"""Digest by file and tensor, where the writer of the file told it."""


def contents_digest(contents: Contents) -> str:
    """The digest of an artifact: of the canonical JSON of its files by path."""
    ordered = sorted(contents, key=lambda one: one.path)
    return digest_of(canonical_json({"schema": 1, "files": [one.as_json() for one in ordered]}))


def contents_of(folder: Path, known: Mapping[tuple[str, str], str] | None = None) -> Contents:
    """The contents of all files of a folder, by path. A tensor whose digest its writer told (`known`) is not read."""
    with reaching(folder):
        paths = sorted(files_of(folder))
    with ThreadPoolExecutor(_THREADS) as threads:
        return tuple(threads.map(partial(_content, folder, known=known or {}), paths))


def difference(folder: Path, contents: Contents) -> CorruptError | None:
    """The first file or tensor that is not as recorded, every byte hashed, or a file that could be loaded in their
    place; None where all is as it was. Other files may lie beside them: `extra` names those.
    """
    with ThreadPoolExecutor(_THREADS) as threads:
        found = threads.map(partial(_wrong, folder), sorted(contents, key=lambda one: -one.size))
        wrong = next((one for one in found if one is not None), None)
    if wrong is not None:
        return wrong
    stray = next(filter(is_loadable, extra(folder, contents)), None)
    return None if stray is None else CorruptError(str(folder / stray), expected="no such file", actual="such a file")


def extra(folder: Path, contents: Contents) -> tuple[str, ...]:
    """Files that are no part of the artifact, but for hidden ones and what Python leaves beside code."""
    return tuple(path for path in strangers(folder, contents) if not any(p.startswith(".") for p in path.split("/")))


def strangers(folder: Path, contents: Contents) -> tuple[str, ...]:
    """Files that are no part of the artifact, hidden ones too; only what programs leave behind is not someone's."""
    with reaching(folder):
        others = set(files_of(folder)) - {one.path for one in contents}
    return tuple(sorted(path for path in others if not _LEFT_BEHIND.intersection(path.split("/"))))


def files_of(folder: Path, above: str = "") -> Iterator[str]:
    """Every file, link and device below, by relative path."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from files_of(Path(entry.path), f"{above}{entry.name}/")
            else:
                yield f"{above}{entry.name}"


def ranges(content: Content) -> Iterator[tuple[Piece, int]]:
    """Each piece with where it begins."""
    start = 0
    for piece in content.pieces:
        yield piece, start
        start += piece.size


def _content(folder: Path, path: str, known: Mapping[tuple[str, str], str]) -> Content:
    with reaching(folder / path), reading_beneath(folder, path) as descriptor:
        size = os.fstat(descriptor).st_size
        header = _header(descriptor, path, size)
        if header is None:
            return Content(path, (Piece("", _hash(descriptor, 0, size), size),))
        pieces = [Piece("", _hash(descriptor, 0, header.data_offset), header.data_offset)]
        for info in header.tensors.values():
            told = known.get((path, info.name))
            start = header.data_offset + info.start
            pieces.append(Piece(info.name, told or _hash(descriptor, start, info.size), info.size))
        return Content(path, tuple(pieces))


def _header(descriptor: int, path: str, size: int) -> Header | None:
    """None for anything but a safetensors file."""
    if not path.endswith(WEIGHTS) or size < _LENGTH:
        return None
    length = int.from_bytes(os.pread(descriptor, _LENGTH, 0), "little")
    if length > min(size, _LARGEST_HEADER):
        return None
    try:
        return parse_header(os.pread(descriptor, _LENGTH + length, 0), size, path)
    except HeaderError:
        return None


def _wrong(folder: Path, content: Content) -> CorruptError | None:
    place = folder / content.path
    try:
        with reading_beneath(folder, content.path) as descriptor:
            size = os.fstat(descriptor).st_size
            if size != content.size:
                return CorruptError(str(place), expected=f"{content.size} bytes", actual=f"{size} bytes")
            for piece, start in ranges(content):
                actual = _hash(descriptor, start, piece.size)
                if actual != piece.sha256:
                    subject = f"{place}: tensor {piece.name}" if piece.name else str(place)
                    return CorruptError(subject, expected=piece.sha256, actual=actual)
    except OSError as error:
        return CorruptError(str(place), expected="a file", actual=error.strerror or str(error))
    return None


def _hash(descriptor: int, start: int, size: int) -> str:
    digest = hashlib.sha256()
    end = start + size
    while start < end:
        chunk = os.pread(descriptor, min(_CHUNK, end - start), start)
        if not chunk:
            break
        digest.update(chunk)
        start += len(chunk)
    return f"sha256:{digest.hexdigest()}"
