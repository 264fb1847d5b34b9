"""Collect what nothing needs: blobs of versions deleted long enough, orphans, dead staging folders, spent leases.

The order is what keeps promise P3. A blob row goes `live` → `condemned` → `deleting` in transactions of their own, each
checking references and leases again; only then are the bytes deleted and the row dropped. A push names its digests in a
lease before it looks: then gc spares them, or the push waits until the row is gone. Blobs without rows get one in state
`deleting` first. Everything goes by pages: memory does not grow with the registry.
"""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice, takewhile
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy import exists, func, or_, select, update

from registry.catalog.audit import note
from registry.catalog.clock import now
from registry.catalog.leases import drop_expired, release
from registry.collecting import claims
from registry.collecting.builds import clear_turns
from registry.collecting.owners import folder_of, place_of
from registry.errors import ConflictError
from registry.files.disk import FOLDER, make_folder, opened, reaching
from registry.models import Adapter, AuditEntry, Blob, File, Lease, Version
from registry.pulls.pulled import clear_stale_pulls
from registry.results import GcResult
from registry.store.blobs import StoredBlob

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime, timedelta

    from sqlalchemy import Select
    from sqlalchemy.orm import Session

    from registry.catalog.database import Database
    from registry.collecting.claims import Claim, Claimant, Sized
    from registry.handle import Handle
    from registry.store.blobs import BlobStore

T = TypeVar("T")

SAMPLE = 1000
_TRACES = (Adapter.id, Lease.id, AuditEntry.id)


@dataclass(slots=True)
class Tally:
    """What was freed so far: counted, and the first SAMPLE digests by name."""

    blobs: int = 0
    bytes: int = 0
    sample: list[str] = field(default_factory=list)

    def add(self, gone: Sequence[Sized]) -> None:
        """Count some more."""
        self.blobs += len(gone)
        self.bytes += sum(size for _, size in gone)
        self.sample += [digest for digest, _ in gone[: SAMPLE - len(self.sample)]]


def collect(handle: Handle, *, grace: timedelta) -> GcResult:
    """Free what may go. `grace` counts from deletion, and for blobs without rows from their last change.

    A crash leaves what the next run finishes. Any number of runs may go on beside each other on different hosts.
    ConflictError where the catalog knows of nothing that the store holds.
    """
    refuse_lost(handle)
    database, store, tally = handle.database, handle.store, Tally()
    with _run(handle) as who:
        assert who is not None
        database.write(lambda session: _drop_leases(session, store, handle.settings.actor))
        temporary = store.clear_stale() + clear_stale_pulls(handle.settings.pulled)
        temporary += clear_turns(handle.settings.artifacts)
        versions = _free_versions(database, grace, handle.settings.actor)
        _condemn(database)
        for work in (claims.take_over, claims.take):
            _sweep(handle, who, partial(work, who=who), tally)
        for page in orphans(handle, grace):
            tally.add(_delete(handle, who, claims.claim(database, partial(claims.adopt, who=who, found=page))))
    return GcResult(
        dry_run=False,
        blobs=tally.blobs,
        bytes=tally.bytes,
        versions=versions,
        temporary=temporary,
        removed=tuple(tally.sample),
        kept=_kept(database),
    )


def refuse_lost(handle: Handle) -> None:
    """ConflictError where nothing was ever written through this catalog and the store holds a blob.

    Then the catalog that made those blobs was lost, and to this one all of them would be orphans. The store is looked
    at first: whoever placed a blob through this catalog had taken a lease before.
    """
    if next(iter(handle.store.list()), None) is None:
        return
    with handle.database.reading() as session:
        known = session.scalar(select(or_(*(exists().where(row.is_not(None)) for row in _TRACES))))
    if not known:
        raise ConflictError(
            f"{handle.store.label} holds blobs, and nothing was ever written through {handle.database.label}: "
            "to it all of them are orphans",
            hint="adapters fsck --rebuild, or the database that belongs to this store",
        )


def take_over(handle: Handle, digests: Sequence[str]) -> bool:
    """End the deletion of those of the digests whose run is dead or late; whether there were such."""
    with _run(handle, wait=False) as who:
        if who is None:
            return False
        late = claims.claim(handle.database, partial(claims.take_over, who=who, digests=digests))
        return bool(_delete(handle, who, late))


def take_away(handle: Handle, digests: Sequence[str]) -> None:
    """Delete blobs that lie in the store as something else, unless a row or a lease names them.

    What a row names is some version's, or was; what is leased another push may have sent rightly since. Those stay: the
    next push of them sends them anew, and reading finds them wrong till then.
    """
    with _run(handle, wait=False) as who:
        if who is not None:
            found = [StoredBlob(digest, handle.store.size(digest), 0.0) for digest in digests]
            _delete(handle, who, claims.claim(handle.database, partial(claims.adopt, who=who, found=found)))


def expired(moment: datetime) -> Select[int]:
    """Versions deleted before a moment whose blobs are still held."""
    return select(Version.id).where(Version.deleted_at <= moment, Version.freed_at.is_(None))


def orphans(handle: Handle, grace: timedelta) -> Iterator[list[StoredBlob]]:
    """Pages of blobs in the store that no row and no lease names, unchanged for `grace`.

    The store's own clock says when a blob changed; where that is wrong they stay longer or shorter, which harms nobody:
    what a push needs is leased.
    """
    with handle.database.reading() as session:
        moment = (now(session) - grace).timestamp() + 1  # SQLite's now is a second early
    old = (blob for blob in handle.store.list() if blob.mtime <= moment)
    for page in _pages(old, claims.BATCH):
        with handle.database.reading() as session:
            unknown = claims.unknown(session, page)
        if unknown:
            yield unknown


@contextmanager
def _run(handle: Handle, *, wait: bool = True) -> Iterator[Claimant | None]:
    """A run that may delete. On a store of local files only one at a time, by a lock on the staging folder, which is
    free once its holder died; None where it is not, unless told to wait.

    A request to an object store may outlive its process, so there nobody is alone: claims have to run out.
    """
    place = handle.settings.staging
    with reaching(place):
        make_folder(place)
        os.utime(place)  # a place that cannot be written is told before anything is looked for
        if handle.settings.store_url is not None:
            yield claims.claimant(place_of(place), alone=False)
            return
        with opened(place, FOLDER) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield None
                return
            yield claims.claimant(place_of(place), alone=True)


def _sweep(handle: Handle, who: Claimant, work: Callable[[Session], Sequence[Sized]], tally: Tally) -> None:
    while (claim := claims.claim(handle.database, work)).blobs:
        tally.add(_delete(handle, who, claim))


def _delete(handle: Handle, who: Claimant, claim: Claim) -> list[Sized]:
    """Delete what is claimed while the claim holds, then its rows; what there was time for."""
    gone: list[Sized] = []
    chunks = _pages(iter(claim.blobs), handle.store.discards_at_once)
    for chunk in takewhile(lambda _: claim.holds, chunks):
        handle.store.discard([digest for digest, _ in chunk])
        gone += chunk
    if gone:
        handle.database.write(partial(claims.forget, who=who, digests=[digest for digest, _ in gone]))
    return gone


def _drop_leases(session: Session, store: BlobStore, actor: str | None) -> None:
    """Forget leases that ran out, and those of pushes on this host that are gone."""
    dropped = drop_expired(session)
    stale = set(store.stale_staging())
    for lease, owner in session.execute(select(Lease.id, Lease.owner)).all():
        folder = folder_of(owner, store.staging_root)
        if folder is not None and (folder in stale or not folder.exists()):
            release(session, lease)
            dropped += 1
    if dropped:  # what those pushes left in the store stays known as this catalog's own: `refuse_lost`
        note(session, "gc", "leases", actor=actor, dropped=dropped)


def _free_versions(database: Database, grace: timedelta, actor: str | None) -> int:
    freed = 0
    while some := database.write(partial(_free_some, grace=grace, actor=actor)):
        freed += some
    return freed


def _free_some(session: Session, grace: timedelta, actor: str | None) -> int:
    """Let go of the files of versions deleted long enough; manifest and record stay: they are the number's proof."""
    query = expired(now(session) - grace).limit(claims.BATCH)
    versions = list(session.scalars(query.with_for_update()))
    if versions:
        held = (File.version_id.in_(versions), File.role == "file")
        session.execute(update(File).where(*held).values(blob_digest=None))
        session.execute(update(Version).where(Version.id.in_(versions)).values(freed_at=func.current_timestamp()))
        session.add(AuditEntry(action="gc", subject="versions", actor=actor, detail=json.dumps({"freed": versions})))
    return len(versions)


def _condemn(database: Database) -> None:
    after: str | None = ""
    while after is not None:
        after = database.write(partial(claims.condemn, after=after))


def _kept(database: Database) -> dict[str, int]:
    query = select(func.count()).select_from(Blob).where(Blob.state == "deleting")
    with database.reading() as session:
        count = session.scalar(query) or 0
    return {"another run is deleting them, or died over them": count} if count else {}


def _pages(items: Iterator[T], size: int) -> Iterator[list[T]]:
    return iter(lambda: list(islice(items, size)), [])
