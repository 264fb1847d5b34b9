"""The pull cache as a whole: what lies in it, and what of it may go."""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from registry.errors import CorruptError, UnavailableError
from registry.files.disk import discard, reaching
from registry.pulls.entry import LOCK, MANIFEST, files_of_entry, lock_of, remove_entry
from registry.pulls.pulled import clear_stale_pulls, stale_pulls
from registry.pulls.turns import alone
from registry.results import CacheEntry, PruneResult

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from registry.catalog.database import Database

_NAME = re.compile(rf"([0-9a-f]{{64}})(?:{re.escape(MANIFEST)}|{re.escape(LOCK)})?", re.ASCII)
_BATCH = 200

IN_USE, ANOTHER_USERS = "in use", "belongs to another user"
NO_LOCK = "its .lock is no plain file, so whether it is in use cannot be told: remove that"


def list_cache(pulled_root: Path) -> tuple[CacheEntry, ...]:
    """Every entry, the one used last first. Nothing is hashed: `incomplete` is what a look at names and sizes shows."""
    with reaching(pulled_root):
        found = [entry for name in _names(pulled_root) if (entry := _look(pulled_root / name)) is not None]
    return tuple(sorted(found, key=lambda entry: (entry.last_used, entry.digest), reverse=True))


def refs_by_digest(database: Database, digests: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
    """The versions that have these digests, deleted ones left out; by name and number."""
    from sqlalchemy import select

    from registry.models import Adapter, Version

    found: dict[str, tuple[str, ...]] = {}
    query = select(Version.digest, Adapter.namespace, Adapter.name, Version.number)
    query = query.join(Adapter, Adapter.id == Version.adapter_id).where(Version.deleted_at.is_(None))
    with database.reading() as session:
        for start in range(0, len(digests), _BATCH):
            some = query.where(Version.digest.in_(digests[start : start + _BATCH]))
            for row in session.execute(some.order_by(Adapter.namespace, Adapter.name, Version.number)):
                found[row.digest] = (*found.get(row.digest, ()), f"{row.namespace}/{row.name}@{row.number}")
    return found


def prune_cache(
    pulled_root: Path, *, older_than: timedelta | None, keep: int | None, max_size: int | None, dry_run: bool
) -> PruneResult:
    """Removes what `to_go` names, each entry under its own lock, and what dead processes left half-done.

    An entry that is fetched, read or was used since the plan was made stays, as does another user's. A dry run tells
    the same and removes nothing. A crash leaves what the next run finishes.
    """
    temporary = len(stale_pulls(pulled_root)) if dry_run else clear_stale_pulls(pulled_root)
    plan = to_go(list_cache(pulled_root), now=datetime.now(UTC), older_than=older_than, keep=keep, max_size=max_size)
    removed: list[CacheEntry] = []
    kept: dict[str, int] = {}
    for entry in plan:
        with reaching(pulled_root):
            reason = _remove(entry, dry_run=dry_run)
        if reason is None:
            removed.append(entry)
        else:
            kept[reason] = kept.get(reason, 0) + 1
    if not dry_run:
        _drop_locks(pulled_root)
    size = sum(entry.size for entry in removed)
    return PruneResult(dry_run, len(removed), size, temporary, tuple(entry.digest for entry in removed), kept)


def to_go(
    entries: Sequence[CacheEntry],
    *,
    now: datetime,
    older_than: timedelta | None,
    keep: int | None,
    max_size: int | None,
) -> list[CacheEntry]:
    """Which entries go, the one unused for longest first: every incomplete one; of the others, apart from the `keep`
    used last, those unused for `older_than` and as many more as `max_size` asks for. `keep` alone removes the rest.
    """
    broken = [entry for entry in entries if entry.state != "ok"]
    whole = sorted((entry for entry in entries if entry.state == "ok"), key=lambda entry: entry.last_used)
    total = sum(entry.size for entry in whole)
    gone = []
    for entry in whole[: max(0, len(whole) - (keep or 0))]:
        old = older_than is not None and entry.last_used <= now - older_than
        rest = keep is not None and older_than is None and max_size is None
        if old or rest or (max_size is not None and total > max_size):
            gone.append(entry)
            total -= entry.size
    return broken + gone


def _names(pulled_root: Path) -> set[str]:
    try:
        return {match.group(1) for name in os.listdir(pulled_root) if (match := _NAME.fullmatch(name))}  # noqa: PTH208 (names only)
    except FileNotFoundError:
        return set()


def _drop_locks(pulled_root: Path) -> None:
    """Removes the empty lock files that pulls without success left."""
    with reaching(pulled_root):
        for name in _names(pulled_root):
            with alone(lock_of(pulled_root / name), create=False) as free:
                if free and _look(pulled_root / name) is None:
                    with suppress(PermissionError):
                        discard(lock_of(pulled_root / name))


def _remove(entry: CacheEntry, *, dry_run: bool) -> str | None:
    """Why an entry stays, or None once it is gone."""
    folder = entry.path
    manifest, lock = folder.with_name(folder.name + MANIFEST), lock_of(folder)
    if os.geteuid() not in (0, *_owners(folder, manifest)):
        return ANOTHER_USERS
    there = os.path.lexists(lock)
    if there and (os.path.islink(lock) or os.path.isdir(lock)):  # noqa: PTH112, PTH114 (they never raise)
        return NO_LOCK
    with alone(lock, create=not dry_run) as free:
        now = _look(folder)
        if not free or (there and now is not None and now.last_used > entry.last_used):
            return IN_USE
        if not dry_run:
            remove_entry(folder)
            discard(manifest)
            with suppress(PermissionError):  # made by another user in a sticky folder; it is empty
                discard(lock)
    return None


def _owners(*paths: Path) -> Iterator[int]:
    for path in paths:
        with suppress(FileNotFoundError):
            yield path.lstat().st_uid
            return


def _look(folder: Path) -> CacheEntry | None:
    """An entry as its names and sizes show it; None where nothing but a lock file is left."""
    manifest = folder.with_name(folder.name + MANIFEST)
    stamps = [_stamp(path) for path in (lock_of(folder), manifest, folder)]
    if stamps[1] is None and stamps[2] is None:
        return None
    sizes = dict(_sizes(folder)) if stamps[2] is not None else {}
    used = stamps[0] if stamps[0] is not None else max(stamp for stamp in stamps if stamp is not None)
    return CacheEntry(
        digest=f"sha256:{folder.name}",
        path=folder,
        size=sum(sizes.values()),
        files=len(sizes),
        last_used=datetime.fromtimestamp(used, UTC),
        refs=None,
        state="ok" if sizes == _expected(folder) else "incomplete",
    )


def _expected(folder: Path) -> dict[str, int] | None:
    try:
        return {entry.path: entry.size for entry in files_of_entry(folder)}
    except (CorruptError, UnavailableError):
        return None


def _stamp(path: Path) -> float | None:
    try:
        return path.lstat().st_mtime
    except FileNotFoundError:
        return None


def _sizes(folder: Path) -> Iterator[tuple[str, int]]:
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                found = os.lstat(f"{place}/{name}")
                if stat.S_ISREG(found.st_mode):
                    yield os.path.relpath(f"{place}/{name}", folder), found.st_size
