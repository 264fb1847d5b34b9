"""An artifact that lies somewhere comes to another folder: as clones, links or copies, hashed where it then is."""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from registry.artifacts.contents import difference
from registry.errors import ConflictError, CorruptError, UnavailableError
from registry.files.checkout import put
from registry.files.disk import CREATE, clipped, opened, reaching, reading, sync_folders
from registry.files.scratch import scratch_beside
from registry.files.transfer import copy_hashed

if TYPE_CHECKING:
    from pathlib import Path

    from registry.artifacts.contents import Contents

_FICLONE = 0x40049409  # ioctl(2): the target shares the source's blocks until either is written to
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
_LINKED = 1 << 20  # smaller files are copied: those are the ones that people edit in place


def bring(source: Path, contents: Contents, to: Path) -> str:
    """Makes the new folder `to` of the artifact's files in `source`; `linked` or `copied`. CorruptError where they are
    not as recorded, UnavailableError where there is no room; then, and after a crash, `to` is as it was.
    """
    with scratch_beside(to, mode=0o777) as scratch:
        try:
            linked = [_bring(source / one.path, scratch / one.path) for one in contents]
        except OSError as error:
            if error.errno in _FULL:  # which says nothing of the source
                raise UnavailableError(f"{to}: {error.strerror}") from error
            actual = error.strerror or str(error)
            raise CorruptError(str(error.filename or source), expected="a file", actual=actual) from None
        if wrong := difference(scratch, contents):
            subject = wrong.subject.replace(str(scratch), str(source), 1)
            raise CorruptError(subject, expected=wrong.expected, actual=wrong.actual)
        sync(scratch, contents)
        put(scratch, to)
    return "linked" if any(linked) else "copied"


def sync(folder: Path, contents: Contents) -> None:
    """Makes the names below a folder durable."""
    with reaching(folder):
        sync_folders({folder, *((folder / one.path).parent for one in contents)})


def move_aside(folder: Path) -> Path:
    """Renames a folder to a free name beside it, which is returned: what someone changed is not ours to delete."""
    for number in range(1, 1000):
        aside = folder.with_name(f"{clipped(folder.name, 240)}.changed-{number}")
        if os.path.lexists(aside):
            continue
        with reaching(folder):
            folder.rename(aside)
            sync_folders([folder.parent])
        return aside
    raise ConflictError(f"{folder} was changed, and all names to move it to are taken")


def _bring(source: Path, target: Path) -> bool:
    """Whether the new file shares its bytes with the source's; what both are is made read-only."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with reading(source) as origin:
        large = os.fstat(origin).st_size >= _LINKED
        with opened(target, CREATE & ~os.O_WRONLY | os.O_RDWR, mode=0o666) as descriptor:
            if large and _cloned(origin, descriptor):
                return True
            if not large:
                copy_hashed(origin, descriptor)
                return False
        with suppress(OSError):  # another file system, another user's file, too many links
            target.unlink()
            os.link(source, target, follow_symlinks=False)
            with suppress(OSError):  # another user's file
                os.fchmod(origin, os.fstat(origin).st_mode & 0o555)  # written to in one place, it would change in both
            return True
        with opened(target, CREATE, mode=0o666) as descriptor:
            copy_hashed(origin, descriptor)
    return False


def _cloned(source: int, target: int) -> bool:
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    os.fsync(target)
    return True
