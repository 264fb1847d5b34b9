"""Open files of the result, by descriptor."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def opened(file: Path, flags: int) -> Iterator[int]:
    """A descriptor that is closed again."""
    descriptor = os.open(file, flags | os.O_CLOEXEC, 0o666)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def write(descriptor: int, data: memoryview, offset: int) -> None:
    """All bytes, from `offset` on."""
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


def sync(path: Path) -> None:
    """Make the bytes of a file, or the names in a folder, survive power loss."""
    with opened(path, os.O_RDONLY) as descriptor:
        os.fsync(descriptor)
