"""Collect what nothing needs: blobs of versions deleted long enough, orphans, dead staging folders, spent leases.

The order is what keeps promise P3. A blob row goes `live` → `condemned` → `deleting` in transactions of their own, each
checking references and leases again; only then is the file unlinked and the row dropped. A push names its digests in a
lease before it looks: then gc spares them, or the push waits until the row is gone. Files without rows are unlinked
while publishing is held off, so that a record blob written inside a publish is never taken for an orphan.
"""

from __future__ import annotations

import fcntl
import json
import socket
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import delete, exists, func, select, update

from registry.clock import now
from registry.disk import FOLDER, make_folder, opened, reaching
from registry.leases import drop_expired, hold_publishing, leased, release
from registry.models import AuditEntry, Blob, File, Lease, LeaseBlob, Version
from registry.pulled import clear_stale_pulls, stale_pulls
from registry.results import GcResult

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime, timedelta

    from sqlalchemy import ColumnElement, Select
    from sqlalchemy.orm import Session

    from registry.blobs import BlobStore
    from registry.database import Database
    from registry.handle import Handle

_BATCH = 200

Sized = tuple[str, int]  # digest and bytes


def collect(handle: Handle, *, grace: timedelta, dry_run: bool) -> GcResult:
    """Free what may go. `grace` counts from deletion, and for files without rows from their last change.

    A dry run tells the same and changes nothing. A crash leaves what the next run finishes.
    """
    database, store, pulled = handle.database, handle.store, handle.settings.pulled
    if dry_run:
        return _preview(handle, grace)
    with _alone(handle):
        database.write(lambda session: _drop_leases(session, store))
        temporary = store.clear_stale() + clear_stale_pulls(pulled)
        versions = database.write(lambda session: _free_versions(session, grace, handle.settings.actor))
        database.write(_condemn)
        freed = _sweep(database, store)
        orphans = database.write(lambda session: _unlink_orphans(session, store, grace))
    return _result(freed + orphans, versions=versions, temporary=temporary, dry_run=False)


def finish_interrupted(handle: Handle) -> None:
    """Wait for a collection that is deleting blobs, or end one whose process died over it."""
    with _alone(handle):
        _sweep(handle.database, handle.store)


@contextmanager
def _alone(handle: Handle) -> Iterator[None]:
    """One collection at a time, by a lock on the staging folder; that of a process that died is free."""
    place = handle.settings.staging
    with reaching(place):
        make_folder(place)
        with opened(place, FOLDER) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _result(gone: Sequence[Sized], *, versions: int, temporary: int, dry_run: bool) -> GcResult:
    return GcResult(
        dry_run=dry_run,
        blobs=len(gone),
        bytes=sum(size for _, size in gone),
        versions=versions,
        temporary=temporary,
        removed=tuple(digest for digest, _ in gone),
    )


def lease_owner(staging: Path) -> str:
    """Who holds a lease: a push on this host, whose staging folder is locked for as long as it lives."""
    return f"{socket.gethostname()}:{staging}"


def _drop_leases(session: Session, store: BlobStore) -> None:
    """Forget leases that ran out, and those of pushes on this host that are gone."""
    drop_expired(session)
    stale = set(store.stale_staging())
    ours = lease_owner(store.staging_root)
    for lease, owner in session.execute(select(Lease.id, Lease.owner)).all():
        folder = Path((owner or "").partition(":")[2])
        if (owner or "").startswith(ours) and (folder in stale or not folder.exists()):
            release(session, lease)


def _preview(handle: Handle, grace: timedelta) -> GcResult:
    store = handle.store
    with handle.database.reading() as session:
        expired = tuple(session.scalars(_expired(now(session) - grace)))
        stays = ~(File.version_id.in_(expired) & (File.role == "file"))
        needed = exists().where(File.blob_digest == Blob.digest, stays)
        rows = session.execute(select(Blob.digest, Blob.size).where(~needed, ~leased(Blob.digest))).all()
        orphans = _orphans(session, store, now(session) - grace)
    gone = [(digest, size) for digest, size in rows] + orphans
    temporary = len(store.stale_staging()) + len(stale_pulls(handle.settings.pulled))
    return _result(gone, versions=len(expired), temporary=temporary, dry_run=True)


def _expired(moment: datetime) -> Select[int]:
    """Versions deleted before a moment whose blobs are still held."""
    return select(Version.id).where(Version.deleted_at <= moment, Version.freed_at.is_(None))


def _free_versions(session: Session, grace: timedelta, actor: str | None) -> int:
    """Let go of the files of versions deleted long enough; manifest and record stay: they are the number's proof."""
    expired = list(session.scalars(_expired(now(session) - grace).with_for_update()))
    if expired:
        held = (File.version_id.in_(expired), File.role == "file")
        session.execute(update(File).where(*held).values(blob_digest=None))
        session.execute(update(Version).where(Version.id.in_(expired)).values(freed_at=func.current_timestamp()))
        session.add(AuditEntry(action="gc", subject="versions", actor=actor, detail=json.dumps({"freed": expired})))
    return len(expired)


def _unneeded() -> ColumnElement[bool]:
    """A blob row that no file names and no lease protects."""
    return ~exists().where(File.blob_digest == Blob.digest) & ~leased(Blob.digest)


def _condemn(session: Session) -> None:
    values = {"state": "condemned", "condemned_at": func.current_timestamp()}
    session.execute(update(Blob).where(Blob.state == "live", _unneeded()).values(values))


def _sweep(database: Database, store: BlobStore) -> list[Sized]:
    """Delete condemned blobs, and those an earlier run was interrupted on."""
    gone: list[Sized] = []
    while batch := database.write(_claim):
        for digest, _ in batch:
            store.delete(digest)
        digests = [digest for digest, _ in batch]
        database.write(partial(_forget, digests=digests))
        gone += batch
    return gone


def _claim(session: Session) -> list[Sized]:
    """Up to one batch of blobs in state `deleting`: nobody may use them from here on."""
    may_go = (Blob.state == "condemned") & _unneeded()
    session.execute(update(Blob).where(may_go).values(state="deleting"))
    query = select(Blob.digest, Blob.size).where(Blob.state == "deleting").limit(_BATCH)
    return [(digest, size) for digest, size in session.execute(query)]


def _forget(session: Session, digests: list[str]) -> None:
    session.execute(delete(Blob).where(Blob.digest.in_(digests), Blob.state == "deleting"))


def _orphans(session: Session, store: BlobStore, moment: datetime) -> list[Sized]:
    """Files in the store that no row and no lease names, unchanged since a moment."""
    old = [(blob.digest, blob.size) for blob in store.list() if blob.mtime <= moment.timestamp() + 1]
    known: set[str] = set()
    for start in range(0, len(old), _BATCH):
        digests = [digest for digest, _ in old[start : start + _BATCH]]
        known.update(session.scalars(select(Blob.digest).where(Blob.digest.in_(digests))))
        named = select(LeaseBlob.digest).where(LeaseBlob.digest.in_(digests), leased(LeaseBlob.digest))
        known.update(session.scalars(named))
    return [(digest, size) for digest, size in old if digest not in known]


def _unlink_orphans(session: Session, store: BlobStore, grace: timedelta) -> list[Sized]:
    hold_publishing(session)
    orphans = _orphans(session, store, now(session) - grace)
    for digest, _ in orphans:
        store.delete(digest)
    return orphans
