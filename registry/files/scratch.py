"""Folders that live as long as their process: each is locked by its maker, so that a dead one can be told apart."""

from __future__ import annotations

import fcntl
import os
import re
import stat
import uuid
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from registry.files.disk import FOLDER, clipped, discard_tree, make_folder, opened, reaching

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SUFFIX = ".tmp"
_LABEL = 200  # bytes of a name of at most 255, beside 32 hex, the suffix and dots


@contextmanager
def scratch_folder(parent: Path, *, label: str = "", mode: int = 0o700) -> Iterator[Path]:
    """A fresh, locked folder in `parent`, removed when the block ends unless it was renamed away."""
    with reaching(parent):
        make_folder(parent)
        folder, lock = _fresh(parent, label, mode)
    try:
        yield folder
    finally:
        try:
            if folder.exists():
                discard_tree(folder)
        finally:
            os.close(lock)


@contextmanager
def scratch_beside(target: Path, *, mode: int = 0o700) -> Iterator[Path]:
    """A scratch folder that says which target it becomes. What dead processes left on their way to it goes first."""
    label = f".{clipped(target.name, _LABEL)}."
    with suppress(OSError):  # a leftover is in nobody's way
        for folder in _folders(target.parent):
            if re.fullmatch(rf"{re.escape(label)}[0-9a-f]{{32}}{re.escape(_SUFFIX)}", folder.name):
                _free(folder, remove=True)
    with scratch_folder(target.parent, label=label, mode=mode) as folder:
        yield folder


def stale_folders(parent: Path) -> list[Path]:
    """Scratch folders of this user in `parent` whose process is gone, sorted; root's are everybody's."""
    with reaching(parent):
        return [folder for folder in _folders(parent) if _free(folder, remove=False)]


def clear_stale(parent: Path) -> int:
    """Removes those, each under its own lock; returns how many."""
    with reaching(parent):
        return sum(_free(folder, remove=True) for folder in _folders(parent))


def _fresh(parent: Path, label: str, mode: int) -> tuple[Path, int]:
    while True:
        folder = parent / f"{label}{uuid.uuid4().hex}{_SUFFIX}"
        folder.mkdir(mode=mode)
        # A collector may lock and remove the folder between mkdir and flock: then it is not ours, and we start again.
        try:
            descriptor = os.open(folder, FOLDER)
        except FileNotFoundError:
            continue
        if _locked(descriptor) and folder.is_dir():
            return folder, descriptor
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _folders(parent: Path) -> list[Path]:
    try:
        return sorted(place for place in parent.glob(f"*{_SUFFIX}") if _is_ours(place))
    except FileNotFoundError:
        return []


def _is_ours(place: Path) -> bool:
    """A folder that this user may remove: a shared pull cache holds other users' too."""
    try:
        found = place.lstat()
    except FileNotFoundError:  # its owner removed it meanwhile
        return False
    return stat.S_ISDIR(found.st_mode) and os.geteuid() in (0, found.st_uid)


def _free(folder: Path, *, remove: bool) -> bool:
    """Whether the folder's lock is free; with `remove`, the folder goes while the lock is held."""
    with suppress(FileNotFoundError), opened(folder, FOLDER | os.O_NOFOLLOW) as descriptor:
        if not _locked(descriptor):
            return False
        if remove:
            discard_tree(folder)
        return True
    return False
