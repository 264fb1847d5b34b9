"""The digest of a file's tensors, whatever its header looks like and in which order they lie."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from engine.format.values import TensorFile

if TYPE_CHECKING:
    from pathlib import Path

    from engine.format.tensors import Header

_BLOCK = 2**20


def tensors_digest(path: Path, header: Header) -> str:
    """`sha256:` + 64 hex over the canonical JSON of the sorted [name, dtype, shape, sha256 of the bytes].

    Metadata, padding and the order of tensors do not count. Reads in file order; hashing lets other threads run.
    Raises HeaderError where the file is no longer the one whose header is given.
    """
    rows = []
    with TensorFile(path, header) as file:
        for info in header.tensors.values():
            digest = hashlib.sha256()
            for block in file.blocks(info, _BLOCK):
                digest.update(block)
            rows.append([info.name, info.dtype, list(info.shape), digest.hexdigest()])
    rows.sort(key=lambda row: str(row[0]))
    canonical = json.dumps(rows, ensure_ascii=False, separators=(",", ":")).encode()
    return f"sha256:{hashlib.sha256(canonical).hexdigest()}"
