"""Open files of the result, by descriptor."""

from __future__ import annotations

import errno
import hashlib
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from engine.format.files.header import open_regular

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

    from engine.materialize.stored.place import Place

_UNABLE = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})
"""What file systems say that set nothing aside."""


@contextmanager
def reading(file: Path) -> Iterator[int]:
    """A descriptor of a regular file that is closed again. Raises HeaderError as `open_regular`."""
    descriptor = open_regular(file)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


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


def claim_blocks(descriptor: int, size: int) -> None:
    """Have the disk set aside what an open file of that many bytes needs, where its file system can.

    A disk that others fill meanwhile has room for it still; and threads that write to one file need not wait for each
    other's blocks, an eighth of the time on ext4.
    """
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in _UNABLE:
            raise


def sync(path: Path) -> None:
    """Make the bytes of a file, or the names in a folder, survive power loss."""
    with opened(path, os.O_RDONLY) as descriptor:
        os.fsync(descriptor)


def write_tensor(place: Place, tensor: Tensor) -> str:
    """All of a tensor at its place; gives the sha256 of its bytes, hex."""
    data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
    with opened(place.file, os.O_WRONLY) as descriptor:
        write(descriptor, data, place.offset)
    return hashlib.sha256(data).hexdigest()
