"""Two digests of a base model: `fingerprint` (which weights) and `layout` (which parameters, of which shapes)."""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

WINDOW = 4096


def sample_ranges(start: int, end: int) -> tuple[tuple[int, int], ...]:
    """Give (offset, length) of the first, middle and last 4 KiB of a byte range; of all of it up to 12 KiB."""
    size = end - start
    if size <= 3 * WINDOW:
        return ((start, size),) if size else ()
    middle = start + (size - WINDOW) // 2
    return ((start, WINDOW), (middle, WINDOW), (end - WINDOW, WINDOW))


def sample_digest(descriptor: int, start: int, end: int) -> str:
    """Hash a tensor's sampled bytes, read from an open file; `start` and `end` are absolute. Raises EOFError."""
    digest = hashlib.sha256()
    for offset, length in sample_ranges(start, end):
        piece = os.pread(descriptor, length, offset)
        if len(piece) != length:
            raise EOFError(f"expected {length} bytes at offset {offset}, found {len(piece)}")
        digest.update(piece)
    return digest.hexdigest()


def fingerprint(tensors: Iterable[tuple[str, str, tuple[int, ...], str]]) -> str:
    """Digest (name, dtype, shape, sample digest) of every tensor, in any order and from any number of files."""
    return _digest([[name, dtype, list(shape), sample] for name, dtype, shape, sample in sorted(tensors)])


def layout(parameters: Mapping[str, tuple[int, ...]]) -> str:
    """Digest canonical parameter path → shape, in any order."""
    return _digest([[path, list(shape)] for path, shape in sorted(parameters.items())])


def _digest(rows: list[list[object]]) -> str:
    text = json.dumps(rows, ensure_ascii=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode("ascii")).hexdigest()
