"""The bytes of a file's tensors, in blocks or whole. Read, not mapped: a file that shrinks gives an error, no crash."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Self

from engine.errors import HeaderError
from engine.format.files.header import open_regular

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from engine.format.files.tensors import Header, TensorInfo

_VECTOR = 512
"""Buffers per call; systems take 1,024 at least."""
BLOCK = 2**20  # bytes looked at together, so that the second look finds them in the cache


class TensorFile:
    """The open file of a header's tensors; refuses to go on where the file's size has changed."""

    def __init__(self, path: Path, header: Header) -> None:
        self._path = path
        self._header = header
        self._descriptor = open_regular(path)
        self._buffer = bytearray()

    def __enter__(self) -> Self:
        """Checks the size, so that a replaced file is noticed before its bytes are believed."""
        if os.fstat(self._descriptor).st_size != self._header.file_size:
            os.close(self._descriptor)
            raise HeaderError(self._path, "changed", "the file's size changed after its header was read")
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the file."""
        os.close(self._descriptor)

    def blocks(self, info: TensorInfo, block: int = BLOCK) -> Iterator[memoryview]:
        """The tensor's bytes in blocks of at most `block`; each is overwritten by the next."""
        for start in range(info.start, info.end, block):
            yield self._read(start, min(block, info.end - start))

    def part(self, info: TensorInfo, start: int, size: int) -> memoryview:
        """`size` bytes of the tensor from its byte `start` on; overwritten by the next read."""
        return self._read(info.start + start, size)

    def whole(self, info: TensorInfo) -> memoryview:
        """All bytes of the tensor; overwritten by the next read."""
        return self._read(info.start, info.size)

    def scatter(self, views: Sequence[memoryview]) -> None:
        """Fill the views, one after the other, with the bytes from the first tensor's on."""
        position = 0
        for first in range(0, len(views), _VECTOR):
            some = views[first : first + _VECTOR]
            wanted = sum(map(len, some))
            if os.preadv(self._descriptor, some, self._header.data_offset + position) == wanted:
                position += wanted
                continue
            for view in some:  # the call may stop early; then view by view
                self._fill(view, position)
                position += len(view)

    def _read(self, start: int, size: int) -> memoryview:
        if len(self._buffer) < size:
            self._buffer = bytearray(size)
        view = memoryview(self._buffer)[:size]
        self._fill(view, start)
        return view

    def _fill(self, view: memoryview, start: int) -> None:
        size, done = len(view), 0
        while done < size:
            count = os.preadv(self._descriptor, [view[done:]], self._header.data_offset + start + done)
            if count == 0:
                raise HeaderError(self._path, "changed", "the file became shorter after its header was read")
            done += count
