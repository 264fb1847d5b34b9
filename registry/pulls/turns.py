"""One lock file per pulled version: who fetches it, who reads it, when it was last used; freed by the kernel at death.

Locks here save work and keep `prune` away; no promise rests on them. Whoever finds none to be had (a read-only cache, a
file system without flock), or its holder without a sign of life, fetches a copy of its own: what is put at a name is
whole, and what is handed out was hashed.
"""

from __future__ import annotations

import fcntl
import os
import stat
from contextlib import contextmanager, suppress
from threading import Event, Thread
from time import monotonic, sleep
from typing import TYPE_CHECKING

from registry.files.disk import discard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from registry.values.progress import Notice

BEAT_S = 5.0
SILENCE_S = 60.0
TELL_AFTER_S = 2.0
_PAUSES_S = (0.01, 0.25)
_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
# One that is there first: where a sticky folder is shared, the kernel refuses O_CREAT on another user's file.
_WAYS = (os.O_RDWR, os.O_RDWR | os.O_CREAT | os.O_EXCL, os.O_RDWR, os.O_RDONLY)


@contextmanager
def in_use(path: Path) -> Iterator[None]:
    """Notes the moment of use and keeps `alone` away while the block runs, as far as the file system allows."""
    lock = open_lock(path)
    try:
        if lock is not None:
            with suppress(OSError):
                lock_now(lock, fcntl.LOCK_SH)
            _touch(lock)
        yield
    finally:
        if lock is not None:
            os.close(lock)


@contextmanager
def turn(path: Path, *, ready: Callable[[], bool], notice: Notice) -> Iterator[None]:
    """Waits for the lock, or until `ready`, or until its holder has shown no sign of life for `SILENCE_S`. OSError
    where the file system has no such locks.

    While the block runs the lock file is touched every `BEAT_S`: a holder that is stopped goes silent, one that is
    merely slow does not. `notice` is told once when the wait grows long, and when the wait is given up.
    """
    lock = _wait(path, ready, notice)
    try:
        with _beating(lock):
            yield
    finally:
        if lock is not None:
            os.close(lock)


@contextmanager
def alone(path: Path, *, create: bool = True) -> Iterator[bool]:
    """Whether nobody uses or fetches what the lock is for; nobody begins to while the block runs."""
    lock = open_lock(path, _WAYS if create else (os.O_RDWR, os.O_RDONLY))
    try:
        yield (lock is None and not create) or (
            lock is not None and lock_now(lock, fcntl.LOCK_EX) and is_at(lock, path)
        )
    finally:
        if lock is not None:
            os.close(lock)


def _wait(path: Path, ready: Callable[[], bool], notice: Notice) -> int | None:
    """An exclusive lock; None where there is nothing to wait for any more."""
    lock, pause, told, start = open_lock(path), _PAUSES_S[0], False, monotonic()
    sign, heard = _sign(lock), start
    while lock is not None and not ready():
        if lock_now(lock, fcntl.LOCK_EX) and is_at(lock, path):
            return lock
        now = monotonic()
        if not is_at(lock, path) or now - heard > SILENCE_S:
            lock = _renewed(lock, path, notice)
        if sign != (sign := _sign(lock)):
            heard = now
        if not told and now - start > TELL_AFTER_S:
            notice("another process is fetching this version: waiting for it")
            told = True
        sleep(pause)
        pause = min(pause * 1.5, _PAUSES_S[1])
    if lock is not None:
        os.close(lock)
    return None


def _renewed(lock: int, path: Path, notice: Notice) -> int | None:
    """The lock file that is there now; a new one in the place of one whose holder is silent."""
    try:
        if is_at(lock, path):
            notice(
                f"the process that was fetching this version has been silent for {SILENCE_S:.0f} s: fetching it here"
            )
            discard(path)
    except OSError:  # another user's, in a sticky folder: then without a lock
        return None
    finally:
        os.close(lock)
    return open_lock(path)


@contextmanager
def _beating(lock: int | None) -> Iterator[None]:
    stop = Event()

    def beat() -> None:
        while lock is not None:
            _touch(lock)
            if stop.wait(BEAT_S):
                return

    thread = Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def open_lock(path: Path, ways: tuple[int, ...] = _WAYS) -> int | None:
    """The lock file, made where there is none, for every user that reaches its folder; None where that cannot be."""
    for flags in ways:
        try:
            lock = os.open(path, flags | _FLAGS, 0o666)
        except OSError:
            continue
        if stat.S_ISREG(os.fstat(lock).st_mode):
            if flags & os.O_CREAT:
                with suppress(OSError):
                    os.fchmod(lock, 0o666)  # the umask of the first user must not keep the others out
            return lock
        os.close(lock)
    return None


def lock_now(lock: int, kind: int) -> bool:
    """Whether the lock is ours now; OSError where the file system has none."""
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_at(lock: int, path: Path) -> bool:
    """Whether the open file still is the one at the path: whoever removes an entry removes its lock file with it."""
    try:
        return os.path.samestat(os.fstat(lock), path.lstat())
    except OSError:
        return False


def _sign(lock: int | None) -> int | None:
    return None if lock is None else os.fstat(lock).st_mtime_ns


def _touch(lock: int) -> None:
    with suppress(OSError):
        os.utime(lock)
