"""What gc would free: counted, never changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, exists, func, select

from registry.catalog.clock import now
from registry.catalog.leases import leased
from registry.collecting.builds import left_turns
from registry.collecting.gc import SAMPLE, Tally, expired, orphans, refuse_lost
from registry.models import Blob, File
from registry.pulls.pulled import stale_pulls
from registry.results import GcResult

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from registry.handle import Handle


def forecast(handle: Handle, *, grace: timedelta) -> GcResult:
    """The counts and bytes that `gc.collect` would report now; ConflictError where that would refuse."""
    refuse_lost(handle)
    tally = Tally()
    with handle.database.reading() as session:
        moment = now(session)
        goes = _goes(moment, moment - grace)
        versions = session.scalar(select(func.count()).select_from(expired(moment - grace).subquery())) or 0
        count, size = session.execute(select(func.count(), func.sum(Blob.size)).where(goes)).one()
        tally.blobs, tally.bytes = count, int(size or 0)
        tally.sample += session.scalars(select(Blob.digest).where(goes).limit(SAMPLE))
    for page in orphans(handle, grace):
        tally.add([(blob.digest, blob.size) for blob in page])
    return GcResult(
        dry_run=True,
        blobs=tally.blobs,
        bytes=tally.bytes,
        versions=versions,
        temporary=len(handle.store.stale_staging())
        + len(stale_pulls(handle.settings.pulled))
        + left_turns(handle.settings.artifacts),
        removed=tuple(tally.sample),
    )


def _goes(moment: datetime, deleted_before: datetime) -> ColumnElement[bool]:
    stays = ~(File.version_id.in_(expired(deleted_before)) & (File.role == "file"))
    needed = exists().where(File.blob_digest == Blob.digest, stays)
    running = (Blob.state == "deleting") & Blob.deleting_until.is_not(None) & (Blob.deleting_until > moment)
    return ~needed & ~leased(Blob.digest) & ~running
