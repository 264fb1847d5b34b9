"""One entry of the pull cache: the folder `<hex>`, `<hex>.manifest.json` and `<hex>.lock`, side by side."""

from __future__ import annotations

import fcntl
import os
import stat
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING

from registry.errors import CorruptError, UnavailableError
from registry.files.disk import CREATE, FOLDER, discard, discard_tree, opened, reaching, reading, sync_folder
from registry.files.manifest import parse_manifest
from registry.files.scratch import scratch_folder
from registry.values.digests import digest_of, hex_of

if TYPE_CHECKING:
    from pathlib import Path

    from registry.results import FileEntry

MANIFEST, LOCK = ".manifest.json", ".lock"


def entry_folder(pulled_root: Path, digest: str) -> Path:
    """Where a version lies, whether or not it is there."""
    return pulled_root / hex_of(digest)


def lock_of(folder: Path) -> Path:
    """The lock file of an entry; its time of change is when the entry was last used."""
    return folder.with_name(folder.name + LOCK)


def files_of_entry(folder: Path) -> tuple[FileEntry, ...]:
    """What an entry should hold, from the manifest beside it; CorruptError where that is not its digest's."""
    path = folder.with_name(folder.name + MANIFEST)
    with reaching(path), reading(path) as descriptor, os.fdopen(os.dup(descriptor), "rb") as file:
        content = file.read()
    if digest_of(content) != f"sha256:{folder.name}":
        raise CorruptError(str(path), expected=f"sha256:{folder.name}", actual=digest_of(content))
    return parse_manifest(content)


def known_files(pulled_root: Path, digest: str) -> tuple[FileEntry, ...] | None:
    """Those of a version that is there; None where it is not, or its manifest cannot be believed."""
    folder = entry_folder(pulled_root, digest)
    with suppress(CorruptError, UnavailableError):
        return files_of_entry(folder) if os.path.lexists(folder) else None
    return None


def remove_entry(folder: Path) -> None:
    """Takes whatever is at an entry's name away: by one rename, then its files. Its folder stays locked meanwhile, so
    that nobody takes it for a dead process's; OSError where it is another user's.
    """
    try:
        if not stat.S_ISDIR(folder.lstat().st_mode):
            return discard(folder)
        with opened(folder, FOLDER | os.O_NOFOLLOW) as descriptor:
            with suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            aside = folder.with_name(f".{uuid.uuid4().hex}.tmp")
            folder.rename(aside)
            with suppress(PermissionError):  # moved away; its owner's prune takes the rest
                discard_tree(aside)
    except FileNotFoundError:
        return None


def keep_manifest(folder: Path, content: bytes) -> None:
    """The manifest beside an entry, whole, durable and readable by all."""
    path = folder.with_name(folder.name + MANIFEST)
    with suppress(OSError), reading(path) as descriptor:
        if os.pread(descriptor, len(content) + 1, 0) == content:
            return
    with scratch_folder(folder.parent, label=".") as scratch, reaching(path):
        temporary = scratch / "manifest.json"
        with opened(temporary, CREATE) as descriptor, os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(descriptor, 0o444)
            os.fsync(descriptor)
        temporary.rename(path)
        sync_folder(folder.parent)
