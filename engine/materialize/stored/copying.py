"""Bytes from file to file by the kernel, with a sum of what was read on the way."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from engine.errors import HeaderError

if TYPE_CHECKING:
    from pathlib import Path

_UNABLE = frozenset(
    {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF, errno.ETXTBSY}
)
"""What copy_file_range says between some file systems, and where a sandbox forbids it."""
_STEP = 8 * 2**20


def copy_range(source: int, start: int, target: int, place: int, size: int, *, file: Path) -> None:
    """Copy `size` bytes from `start` of one open file to `place` of another; shares extents where the file system can.

    Raises HeaderError naming `file` where the source ends before.
    """
    done = 0
    while done < size:
        count = _copied(source, start + done, target, place + done, size - done)
        if count == 0:
            raise HeaderError(file, "changed", "the file became shorter after its header was read")
        done += count


def _copied(source: int, start: int, target: int, place: int, size: int) -> int:
    try:
        return os.copy_file_range(source, target, size, start, place)
    except OSError as error:
        if error.errno not in _UNABLE:
            raise
    data = memoryview(os.pread(source, min(size, _STEP), start))
    written = 0
    while written < len(data):
        written += os.pwrite(target, data[written:], place + written)
    return written
