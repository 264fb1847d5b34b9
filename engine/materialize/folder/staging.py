"""The folder beside a destination in which the result grows: one maker at a time, and found again after a kill.

```
.NAME.partial/          locked by its maker for as long as that process lives
├── journal             one line per finished tensor
└── files/              what becomes NAME, by one rename
```
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import DestinationError, DiskError, EngineError
from engine.materialize.stored.files import sync

if TYPE_CHECKING:
    from collections.abc import Iterator

_TAKEN = frozenset({errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR})
_NAME_MAX = 240
"""Bytes of a name that still has room for a dot before and an ending behind it."""


@dataclass(frozen=True, slots=True)
class Staging:
    """The places of one destination; `to` is absolute."""

    to: Path
    home: Path

    @property
    def files(self) -> Path:
        """The folder that becomes `to`."""
        return self.home / "files"

    @property
    def journal(self) -> Path:
        """What is finished."""
        return self.home / "journal"


def staging(to: Path) -> Staging:
    """Where the result for `to` grows. Raises DestinationError where `to` is more than an empty folder."""
    destination = Path(os.path.abspath(to))  # noqa: PTH100 (Path.absolute keeps `..`)
    _refuse_taken(destination)
    name = destination.name
    if len(os.fsencode(name)) > _NAME_MAX:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return Staging(destination, destination.with_name(f".{name}.partial"))


@contextmanager
def claimed(place: Staging) -> Iterator[None]:
    """Hold the staging folder, made where it is missing, against every other process.

    Once the result is published it is gone. What running again may mend (a full disk, an interrupt) leaves it to be
    resumed where a journal is in it; every other error takes it away. The system's refusals become DiskError.
    """
    with _refusals(place), _locked(place):
        try:
            yield
        except BaseException as error:
            spoiled = isinstance(error, EngineError) and not isinstance(error, DestinationError)
            if spoiled or not _resumable(place):
                shutil.rmtree(place.home, ignore_errors=True)  # what stopped the work is what is told
            raise
        shutil.rmtree(place.home, ignore_errors=True)  # the result is there


def emptied(place: Staging) -> None:
    """Take away what another run left in the staging folder, which is claimed."""
    place.journal.unlink(missing_ok=True)
    for entry in place.home.iterdir():
        shutil.rmtree(entry)


def publish(place: Staging) -> None:
    """Give the finished, durable files their name, in one step. Raises DestinationError where it is taken."""
    _refuse_taken(place.to)
    try:
        place.files.rename(place.to)  # the system replaces nothing but an empty folder
    except OSError as error:
        refusal = DestinationError if error.errno in _TAKEN else DiskError
        raise refusal(place.to, f"cannot be put there: {error.strerror}") from error
    sync(place.to.parent)


def _refuse_taken(to: Path) -> None:
    if not os.path.lexists(to):
        return
    if to.is_symlink() or not to.is_dir() or any(to.iterdir()):
        raise DestinationError(to, "exists; give the name of a new folder")
    if to.is_mount() or to.samefile(Path.cwd()):
        raise DestinationError(to, "is the current folder or a mount point; give the name of a new folder in it")


def _resumable(place: Staging) -> bool:
    return os.path.exists(place.journal)  # noqa: PTH110 (a broken disk gives no answer, which Path.exists raises)


@contextmanager
def _refusals(place: Staging) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = f" ({os.fsdecode(error.filename)})" if error.filename else ""
        kept = f"; what is finished stays in {place.home}: resume it, or delete it" if _resumable(place) else ""
        raise DiskError(place.to, f"{error.strerror or error}{where}{kept}") from error


@contextmanager
def _locked(place: Staging) -> Iterator[None]:
    held = None
    while held is None:
        held = _held(place)
    try:
        _refuse_taken(place.to)
        yield
    finally:
        os.close(held)


def _held(place: Staging) -> int | None:
    """A descriptor that holds the lock; None where who held it before took the folder away before we had it."""
    with suppress(FileExistsError):
        place.home.mkdir()
    try:
        descriptor = os.open(place.home, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        _lock(descriptor, place)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), place.home.lstat()):
                return os.dup(descriptor)
    finally:
        os.close(descriptor)
    return None


def _lock(descriptor: int, place: Staging) -> None:
    if os.fstat(descriptor).st_uid != os.geteuid():
        raise DestinationError(place.to, f"{place.home} belongs to another user; delete it, or give another name")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DestinationError(place.to, "another process is writing it") from None
