"""The digest of a file's tensors, whatever its header looks like and in which order they lie."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from engine.format.files.tensorfile import TensorFile

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from engine.format.files.tensors import Header


def tensors_digest(path: Path, header: Header) -> str:
    """`sha256:` + 64 hex over the canonical JSON of the sorted [name, dtype, shape, sha256 of the bytes].

    Metadata, padding and the order of tensors do not count. Reads in file order; hashing lets other threads run.
    Raises HeaderError where the file is no longer the one whose header is given.
    """
    return combined(header, tensor_hashes(path, header))


def tensor_hashes(path: Path, header: Header) -> dict[str, str]:
    """The hex sha256 of each tensor's bytes; reads and raises as `tensors_digest`."""
    hashes = {}
    with TensorFile(path, header) as file:
        for name, info in header.tensors.items():
            digest = hashlib.sha256()
            for block in file.blocks(info):
                digest.update(block)
            hashes[name] = digest.hexdigest()
    return hashes


def combined(header: Header, hashes: Mapping[str, str]) -> str:
    """The digest of all tensors from the hex sha256 of each one's bytes."""
    rows = [[name, info.dtype, list(info.shape), hashes[name]] for name, info in sorted(header.tensors.items())]
    canonical = json.dumps(rows, ensure_ascii=False, separators=(",", ":")).encode()
    return f"sha256:{hashlib.sha256(canonical).hexdigest()}"
