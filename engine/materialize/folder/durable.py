"""Files made durable while others are still written, so that little is left to wait for at the end."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

from engine.materialize.stored.files import sync

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future
    from pathlib import Path

EVERY = 256 * 2**20
"""Bytes written to a file before they are sent to the disk."""


@contextmanager
def syncing() -> Iterator[Callable[[Path, int], None]]:
    """Gives what is to be told of bytes written to a file; one thread sends them to the disk, some behind the writers.

    At the end of the block raises the OSError that the disk answered, whenever that was.
    """
    waiting: dict[Path, int] = {}
    begun: list[Future[None]] = []

    def wrote(file: Path, size: int) -> None:
        waiting[file] = waiting.get(file, 0) + size
        if waiting[file] >= EVERY:
            del waiting[file]
            begun.append(pool.submit(sync, file))

    with ThreadPoolExecutor(1) as pool:
        try:
            yield wrote
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        # The system says once that it could not write: what an early call was told must not be lost.
        for future in begun:
            future.result()


def sync_tree(folder: Path) -> None:
    """Make every file and every name below durable."""
    for place, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync(folder / place / name)
        sync(folder / place)
