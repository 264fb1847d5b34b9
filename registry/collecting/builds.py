"""Turns: one build of a recipe at a time in a home, one writer of a folder at a time wherever its home is."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager, suppress
from time import monotonic, sleep
from typing import TYPE_CHECKING

from registry.files.disk import clipped, discard, make_folder, reaching
from registry.files.scratch import clear_stale, stale_folders
from registry.pulls.turns import alone, is_at, lock_now, open_lock
from registry.values.digests import digest_of, hex_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from registry.values.progress import Notice

_TELL_AFTER_S = 2.0
_PAUSE_S = 0.1
_LOCKS = "*.lock"


@contextmanager
def building(folder: Path, recipe_digest: str, *, notice: Notice) -> Iterator[None]:
    """Waits for whoever builds this recipe in the same home; a holder that died lets go at once. The lock saves work
    and no promise rests on it: where the file system has none, or another home is used, both build.
    """
    with suppress(OSError):  # a home that cannot be written is told where that matters
        make_folder(folder)
    path = folder / f"{hex_of(recipe_digest)}.lock"
    with _turn(path, "another process is making this artifact: waiting for it", notice):
        yield


@contextmanager
def writing(to: Path, *, notice: Notice) -> Iterator[None]:
    """Waits for whoever writes the folder `to`: what is found there stays so while the block runs, as far as requests
    for artifacts go. The lock lies beside `to`, so that it holds between homes and hosts; its missing parents are made,
    and taken away again where nothing came into them. Who takes both turns takes `building` first.
    """
    with reaching(to):
        missing = [place for place in to.parents if not place.exists()]
        make_folder(to.parent)
    try:
        with _turn(_beside(to), f"another process is writing {to}: waiting for it", notice):
            yield
    finally:
        with suppress(OSError):
            for place in missing:
                place.rmdir()


def left_turns(folder: Path) -> int:
    """How many lock files and scratch folders dead processes left there."""
    return sum(_free(path, remove=False) for path in folder.glob(_LOCKS)) + len(stale_folders(folder))


def clear_turns(folder: Path) -> int:
    """Removes those; returns how many."""
    return sum(_free(path, remove=True) for path in folder.glob(_LOCKS)) + clear_stale(folder)


@contextmanager
def _turn(path: Path, why: str, notice: Notice) -> Iterator[None]:
    lock = _waited(path, why, notice)
    try:
        yield
    finally:
        if lock is not None:
            with suppress(OSError):  # another user's, in a sticky folder
                if is_at(lock, path):
                    discard(path)
            os.close(lock)


def _waited(path: Path, why: str, notice: Notice) -> int | None:
    """The lock, on the file that still has the name: who is done takes it away. None where no lock can be had."""
    start, told = monotonic(), False
    while (lock := open_lock(path)) is not None:
        mine = False
        try:
            mine = lock_now(lock, fcntl.LOCK_EX) and is_at(lock, path)
        except OSError:  # no such locks here
            return None
        finally:
            if not mine:
                os.close(lock)
        if mine:
            return lock
        if not told and monotonic() - start > _TELL_AFTER_S:
            notice(why)
            told = True
        sleep(_PAUSE_S)
    return None


def _beside(to: Path) -> Path:
    name = hex_of(digest_of(os.fsencode(to.name)))[:16]
    return to.with_name(f".{clipped(to.name, 100)}.{name}.lock")


def _free(path: Path, *, remove: bool) -> bool:
    with suppress(OSError), alone(path, create=False) as free:
        if free and remove:
            discard(path)
        return free
    return False
