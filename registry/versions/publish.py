"""The one transaction that makes a version."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import select

from registry.catalog import leases
from registry.catalog.audit import note
from registry.catalog.newest import mark_newest
from registry.models import Adapter, File, Version
from registry.records.blobrows import know_blobs
from registry.records.draft import Parent, RecipeDraft, VersionDraft
from registry.records.recordrows import keep_record
from registry.results import FileEntry
from registry.values.labeltexts import check_texts
from registry.versions.aliases import move
from registry.versions.facts import Filled, fill
from registry.versions.labels import put_metrics, put_tags
from registry.versions.versionrows import add_check, add_parents, insert_documents, insert_version, locked_adapter

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.orm import Session


__all__ = ["Parent", "Published", "RecipeDraft", "VersionDraft", "record"]


@dataclass(frozen=True, slots=True)
class Published:
    """What `record` did. `newest` is the highest number that is not deleted; `restored` tells of a deleted version that
    this push brought back. `kept` names what the draft says otherwise than the version that was there, which stays.
    """

    version_id: int
    number: int
    created: bool
    newest: int
    restored: bool = False
    kept: tuple[str, ...] = ()


def record(
    session: Session, draft: VersionDraft, *, write_record: Callable[[bytes], object], number: int = 0
) -> Published:
    """Make a version of a draft, or find the one that holds the same content and add what is new to it.

    `write_record` places the record blob, and what the record names, durably; it may be called more than once when the
    transaction is tried again. `number` is taken where it is above every number given so far, else the next one is.
    Raises ConflictError where the draft's lease ran out, BusyError while gc is deleting one of the blobs.
    """
    check_texts(draft.tags, draft.metrics, draft.message)
    leases.share_publishing(session)
    if draft.lease is not None:
        leases.require(session, draft.lease)
    adapter = locked_adapter(session, draft.name)
    same = select(Version).where(Version.adapter_id == adapter.id, Version.digest == draft.manifest)
    version = session.scalar(same.with_for_update())  # gc frees a deleted version under the same lock
    created, restored = version is None, version is not None and version.deleted_at is not None
    if version is None:
        version = insert_version(session, adapter, draft, max(adapter.last_number + 1, number))
    elif restored or version.freed_at is not None:
        _restore(session, version)
        insert_documents(session, version.id, draft.documents)  # a rebuilt version whose files were gone has none
    newest = version.number if created else mark_newest(session, adapter.id)
    filled = Filled() if created else fill(session, version, draft)
    more = _add(session, adapter, version, draft) or filled.more
    if draft.lease is not None:
        leases.release(session, draft.lease)
    subject = f"{draft.name}@{version.number}"
    note(session, "push", subject, actor=draft.actor, created=created, restored=restored, digest=version.digest)
    if created or restored or more:
        keep_record(session, version, write_record)
    return Published(version.id, version.number, created, newest or version.number, restored, filled.kept)


def _restore(session: Session, version: Version) -> None:
    """Undo a deletion, also after gc freed the files: this push has just placed them again."""
    rows = session.scalars(select(File).where(File.version_id == version.id)).all()
    know_blobs(session, [FileEntry(row.path, row.sha256, row.size) for row in rows])
    for row in rows:
        row.blob_digest = row.sha256
    version.deleted_at = None
    version.freed_at = None
    session.flush()


def _add(session: Session, adapter: Adapter, version: Version, draft: VersionDraft) -> bool:
    """What a push adds to a version whether or not it is new; True where its record must say more than before."""
    put_tags(session, version.id, draft.tags)
    put_metrics(session, version.id, draft.metrics)
    edges = add_parents(session, version.id, draft.parents)
    add_check(session, version.id, draft)
    for alias in draft.aliases:
        move(session, adapter, alias, version, actor=draft.actor, action="set")
    return edges > 0
