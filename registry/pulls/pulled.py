"""Pulled versions: `<hex>/`, immutable, beside `<hex>.manifest.json` and `<hex>.lock`; found again without database
or store. The folder they lie in may be shared by the users of a machine (README, "How the pull cache goes").
"""

from __future__ import annotations

import errno
import os
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

from registry.errors import ConflictError, CorruptError, UnavailableError, UsageError
from registry.files.checkout import difference, prepared, put
from registry.files.disk import make_folder, reaching
from registry.files.manifest import manifest_bytes
from registry.files.scratch import clear_stale, stale_folders
from registry.pulls.entry import entry_folder, files_of_entry, keep_manifest, lock_of, remove_entry
from registry.pulls.turns import in_use, turn
from registry.values.digests import digest_of
from registry.values.progress import unheard

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from registry.files.checkout import Source
    from registry.results import FileEntry
    from registry.values.progress import Notice

_PREFIX = re.compile(r"sha256:[0-9a-f]{12,64}", re.ASCII)
_NAME = re.compile(r"([0-9a-f]{64})\.manifest\.json", re.ASCII)
_NOT_OURS = {errno.EACCES, errno.EPERM, errno.EROFS}
_ROUNDS = 20

Identity = tuple[int, int]  # inode and change time: a folder that took another's place has another


def ensure_pulled(
    store: Source, digest: str, files: Sequence[FileEntry], pulled_root: Path, *, notice: Notice = unheard
) -> Path:
    """The folder that holds exactly this version, every byte hashed by this call.

    What is there and right is used again; what is there and wrong is replaced by a good copy from the store, or left
    alone where there is none or it is another user's (CorruptError then). Of any number of processes that need the same
    version one fetches it; the others wait for it, hash it and use it (`notice` hears of a long wait).
    """
    content = manifest_bytes(files)
    if digest_of(content) != digest:
        raise CorruptError("manifest", expected=digest, actual=digest_of(content))
    folder = entry_folder(pulled_root, digest)
    for _ in range(_ROUNDS):
        judged = _identity(folder)
        wrong = None if judged is None else _wrong(folder, files)
        if judged is not None and wrong is None:
            keep_manifest(folder, content)
            return folder
        if _fetch(store, files, folder, judged, wrong, notice=notice):
            return folder
    raise CorruptError(str(folder), expected=digest, actual="a folder that changes whenever it is read")


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
    if (wrong := _wrong(folder, files_of_entry(folder))) and os.path.lexists(folder):  # else it went meanwhile
        raise wrong
    return folder if wrong is None else None


def stale_pulls(pulled_root: Path) -> list[Path]:
    """What pulls of dead processes left half-done, as far as this user may remove it."""
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


def _wrong(folder: Path, files: Sequence[FileEntry]) -> CorruptError | None:
    """What is wrong with the entry, every byte hashed while `prune` is kept away."""
    if os.path.islink(folder) or not os.path.isdir(folder):  # noqa: PTH112, PTH114 (they never raise)
        return CorruptError(str(folder), expected=f"sha256:{folder.name}", actual="no folder")
    try:
        with in_use(lock_of(folder)):
            return difference(folder, files)
    except UnavailableError as error:
        return CorruptError(str(folder), expected=f"sha256:{folder.name}", actual=f"a folder not readable: {error}")


def _fetch(
    store: Source,
    files: Sequence[FileEntry],
    folder: Path,
    judged: Identity | None,
    wrong: CorruptError | None,
    *,
    notice: Notice,
) -> bool:
    """Takes a turn at the entry; False where another process has put something there since it was judged."""

    def changed() -> bool:
        return _identity(folder) not in (None, judged)

    with reaching(folder.parent):
        make_folder(folder.parent)
        with turn(lock_of(folder), ready=changed, notice=notice):
            if changed() or not _replace(store, files, folder, wrong):
                return False
            keep_manifest(folder, manifest_bytes(files))
            return True


def _replace(store: Source, files: Sequence[FileEntry], folder: Path, wrong: CorruptError | None) -> bool:
    """Fetches a good copy and puts it where nothing is or something wrong; False where another process was faster."""
    # Between removing and putting nothing is at the name, never something wrong.
    with _ours_to_replace(folder, wrong), prepared(store, files, folder) as good:
        try:
            if wrong is not None:
                with reaching(folder):
                    remove_entry(folder)
            put(good, folder)
        except ConflictError:
            return False
    return True


@contextmanager
def _ours_to_replace(folder: Path, wrong: CorruptError | None) -> Iterator[None]:
    try:
        yield
    except UnavailableError as error:
        here = str(error).startswith(str(folder.parent)) and getattr(error.__cause__, "errno", None) in _NOT_OURS
        if wrong is None or not here:
            raise
        wrong.hint = f"it cannot be replaced here: have its owner remove {folder}, or pull with --to"
        raise wrong from None


def _identity(folder: Path) -> Identity | None:
    with reaching(folder):
        try:
            found = folder.lstat()
        except FileNotFoundError:
            return None
    return found.st_ino, found.st_ctime_ns
