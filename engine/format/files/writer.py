"""Writes a safetensors file whose tensors arrive in any order: header first, each tensor at its planned place.

The bytes are those of safetensors' own `save_file` with metadata `{"format": "pt"}`: widest dtypes first, then by name.
"""

from __future__ import annotations

import json
import os
from math import prod
from typing import TYPE_CHECKING, Self

from engine.format.files.header import BITS
from engine.format.files.tensors import TensorInfo

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

ORDER = {dtype: place for place, dtype in enumerate(reversed(BITS))}
ALIGNMENT = 8


class TensorWriter:
    """An open file that takes each planned tensor once, from any thread. A class because it holds the descriptor."""

    def __init__(self, path: Path, tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
        """`tensors` maps names to safetensors dtype and shape; `path` must not exist."""
        header, self._places = laid_out(tensors)
        self._start = len(header)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        _write(self._descriptor, header, 0)

    def put(self, name: str, data: bytes | bytearray | memoryview) -> None:
        """Writes one tensor's little-endian bytes, which must be as many as planned."""
        self.put_blocks(name, [data])

    def put_blocks(self, name: str, blocks: Iterable[bytes | bytearray | memoryview]) -> None:
        """Writes one tensor's bytes as they come, together as many as planned."""
        info = self._places[name]
        done = 0
        for block in blocks:
            view = memoryview(block).cast("B")
            if done + len(view) > info.size:
                raise ValueError(f"{name}: more than the {info.size} bytes planned")
            _write(self._descriptor, view, self._start + info.start + done)
            done += len(view)
        if done != info.size:
            raise ValueError(f"{name}: {done} bytes, planned {info.size}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # A thread that comes too late meets no file instead of one that has got this number since.
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)


def header_size(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> int:
    """Bytes before the first tensor of such a file."""
    return len(laid_out(tensors)[0])


def laid_out(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> tuple[bytes, dict[str, TensorInfo]]:
    """The bytes before the first tensor of such a file, and each tensor's place behind them."""
    places: dict[str, TensorInfo] = {}
    position = 0
    for name, (dtype, shape) in sorted(tensors.items(), key=lambda item: (ORDER[item[1][0]], item[0])):
        end = position + prod(shape) * BITS[dtype] // 8
        places[name] = TensorInfo(name, dtype, shape, position, end)
        position = end
    described = {
        info.name: {"dtype": info.dtype, "shape": info.shape, "data_offsets": (info.start, info.end)}
        for info in places.values()
    }
    text = json.dumps({"__metadata__": {"format": "pt"}, **described}, separators=(",", ":"), ensure_ascii=False)
    encoded = text.encode()
    encoded += b" " * (-len(encoded) % ALIGNMENT)
    return len(encoded).to_bytes(8, "little") + encoded, places


def _write(descriptor: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
