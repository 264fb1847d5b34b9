"""Pulled versions: `pulled/<hex>/`, immutable, beside `<hex>.manifest.json`; found again without database or store."""

from __future__ import annotations

import fcntl
import os
import re
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING

from registry.checkout import difference, prepared, put
from registry.digests import digest_of, hex_of
from registry.disk import CREATE, discard, discard_tree, opened, reaching, reading, sync_folder
from registry.errors import ConflictError, CorruptError, UsageError
from registry.manifest import manifest_bytes, parse_manifest
from registry.scratch import clear_stale, scratch_folder, stale_folders

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from registry.blobs import BlobStore
    from registry.results import FileEntry

_SUFFIX = ".manifest.json"
_PREFIX = re.compile(r"sha256:[0-9a-f]{12,64}", re.ASCII)
_NAME = re.compile(r"([0-9a-f]{64})\.manifest\.json", re.ASCII)


def ensure_pulled(store: BlobStore, digest: str, files: Sequence[FileEntry], pulled_root: Path) -> Path:
    """The folder that holds exactly this version, every byte hashed by this call.

    What is there and right is used again; what is there and wrong is replaced by a good copy from the store, or left
    alone if the store has none (CorruptError then). Any number of processes may pull the same version at once.
    """
    content = manifest_bytes(files)
    if digest_of(content) != digest:
        raise CorruptError("manifest", expected=digest, actual=digest_of(content))
    folder = pulled_root / hex_of(digest)
    with reaching(pulled_root):
        _write_manifest(folder, content)
    if not _holds(folder, files):
        _pull(store, files, folder)
    return folder


def find_pulled(pulled_root: Path, digest: str) -> Path | None:
    """A pulled version by its digest, or by `sha256:` and at least 12 hex; every byte is hashed before it is returned.

    CorruptError where what is there is wrong; ConflictError where a short digest means several.
    """
    if not _PREFIX.fullmatch(digest):
        raise UsageError(f"{digest[:100]!r} is not a digest: expected sha256: and 12 to 64 hex digits")
    found = [name for name in _names(pulled_root) if name.startswith(digest.removeprefix("sha256:"))]
    if len(found) > 1:
        raise ConflictError(f"{digest} is the start of {len(found)} pulled versions: sha256:{', sha256:'.join(found)}")
    if not found or not os.path.lexists(pulled_root / found[0]):
        return None
    folder = pulled_root / found[0]
    if wrong := difference(folder, _manifest(folder)):
        raise wrong
    return folder


def stale_pulls(pulled_root: Path) -> list[Path]:
    """What pulls of dead processes left half-done."""
    return stale_folders(pulled_root)


def clear_stale_pulls(pulled_root: Path) -> int:
    """Removes what pulls of dead processes left half-done; returns how many folders that were."""
    return clear_stale(pulled_root)


def _names(pulled_root: Path) -> list[str]:
    with reaching(pulled_root):
        try:
            return sorted(match.group(1) for name in os.listdir(pulled_root) if (match := _NAME.fullmatch(name)))  # noqa: PTH208 (names only)
        except FileNotFoundError:
            return []


def _manifest(folder: Path) -> tuple[FileEntry, ...]:
    path = folder.with_name(folder.name + _SUFFIX)
    with reaching(path), reading(path) as descriptor, os.fdopen(os.dup(descriptor), "rb") as file:
        content = file.read()
    if digest_of(content) != f"sha256:{folder.name}":
        raise CorruptError(str(path), expected=f"sha256:{folder.name}", actual=digest_of(content))
    return parse_manifest(content)


def _write_manifest(folder: Path, content: bytes) -> None:
    """Whole or not at all; again each time, since these bytes are known good."""
    with scratch_folder(folder.parent, label=".") as scratch:
        temporary = scratch / "manifest.json"
        with opened(temporary, CREATE, mode=0o444) as descriptor, os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        temporary.rename(folder.with_name(folder.name + _SUFFIX))
    sync_folder(folder.parent)


def _holds(folder: Path, files: Sequence[FileEntry]) -> bool:
    if folder.is_symlink() or not folder.is_dir():
        return False
    return difference(folder, files) is None


def _pull(store: BlobStore, files: Sequence[FileEntry], folder: Path) -> None:
    with prepared(store, files, folder) as good, _lock(folder.parent):
        # Another process may have put a good copy there while ours was written; what is still wrong now is moved aside.
        # Between the two renames nothing is at the name, never something wrong.
        if _holds(folder, files):
            return
        aside = folder.with_name(f".{uuid.uuid4().hex}.tmp")
        with reaching(folder):
            if os.path.lexists(folder):
                folder.rename(aside)
        put(good, folder)
        _remove(aside)


def _remove(aside: Path) -> None:
    with reaching(aside):
        if aside.is_dir() and not aside.is_symlink():
            discard_tree(aside)
        else:
            discard(aside)


@contextmanager
def _lock(pulled_root: Path) -> Iterator[None]:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    with reaching(pulled_root), opened(pulled_root / ".lock", flags, mode=0o666) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
