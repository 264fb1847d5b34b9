"""One build of a recipe at a time on this host: the others wait, then use what it made."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from time import monotonic, sleep
from typing import TYPE_CHECKING

from registry.digests import hex_of
from registry.disk import make_folder, opened

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from registry.progress import Notice

_TELL_AFTER_S = 2.0
_PAUSE_S = 0.1
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


@contextmanager
def building(folder: Path, recipe_digest: str, *, notice: Notice) -> Iterator[None]:
    """Waits for whoever builds this recipe; a holder that died lets go at once. The lock saves work and no promise
    rests on it: where the file system has none, or another home is used, both build.
    """
    path = folder / f"{hex_of(recipe_digest)}.lock"
    try:
        make_folder(folder)
        lock = opened(path, _FLAGS)
        descriptor = lock.__enter__()
    except OSError:  # a home that cannot be written is told where that matters
        yield
        return
    try:
        _wait(descriptor, notice)
        yield
    finally:
        lock.__exit__(None, None, None)


def _wait(descriptor: int, notice: Notice) -> None:
    start, told = monotonic(), False
    while not _locked(descriptor):
        if not told and monotonic() - start > _TELL_AFTER_S:
            notice("another process is making this artifact: waiting for it")
            told = True
        sleep(_PAUSE_S)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # no such locks here
        return True
    return True
