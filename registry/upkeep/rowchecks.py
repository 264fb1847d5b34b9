"""What fsck asks of the rows alone: each rule is a query whose rows are findings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import String, and_, cast, exists, func, literal, or_, select
from sqlalchemy.orm import aliased

from registry.catalog.clock import now
from registry.catalog.leases import NEVER
from registry.models import (
    Adapter,
    Alias,
    Artifact,
    Blob,
    Document,
    File,
    Lease,
    LeaseBlob,
    LineageEdge,
    Version,
)
from registry.results import StoreFinding

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from sqlalchemy import ColumnElement, Select
    from sqlalchemy.orm import Session

    from registry.catalog.database import Database


@dataclass(frozen=True, slots=True)
class RowRule:
    """One promise about rows; `query` yields (subject, detail) for each place where it is broken."""

    id: str
    severity: str
    message: str
    query: Callable[[datetime], Select[str, str]]


def row_findings(database: Database) -> list[StoreFinding]:
    """The findings of every rule, and of the database's own integrity check."""
    with database.reading() as session:
        moment = now(session)
        found = [
            StoreFinding(rule.id, rule.severity, subject, f"{rule.message}: {detail}")
            for rule in ROW_RULES
            for subject, detail in session.execute(rule.query(moment))
        ]
        return found + (_sqlite_integrity(session) if database.is_sqlite else [])


def ref_text() -> ColumnElement[str]:
    """`namespace/name@number` of the joined Adapter and Version, in SQL."""
    return Adapter.namespace + "/" + Adapter.name + "@" + cast(Version.number, String)


def _dangling_alias(_: datetime) -> Select[str, str]:
    subject = Adapter.namespace + "/" + Adapter.name + "@" + Alias.name
    joined = select(subject, ref_text()).join_from(Alias, Version, Alias.version_id == Version.id)
    return joined.join(Adapter, Adapter.id == Alias.adapter_id).where(
        or_(Version.deleted_at.is_not(None), Version.adapter_id != Alias.adapter_id)
    )


def _number_beyond_counter(_: datetime) -> Select[str, str]:
    counter = cast(Adapter.last_number, String)
    return select(ref_text(), counter).join_from(Version, Adapter).where(Version.number > Adapter.last_number)


def _wrong_newest(_: datetime) -> Select[str, str]:
    other = aliased(Version)
    alive = and_(other.adapter_id == Version.adapter_id, other.deleted_at.is_(None))
    highest = select(func.max(other.number)).where(alive).correlate(Version).scalar_subquery()
    wrong = or_(
        and_(Version.newest, Version.number != highest),
        and_(~Version.newest, Version.deleted_at.is_(None), Version.number == highest),
    )
    return select(ref_text(), cast(highest, String)).join_from(Version, Adapter).where(wrong)


def _without_blob(_: datetime) -> Select[str, str]:
    lost = and_(File.blob_digest.is_(None), or_(Version.freed_at.is_(None), File.role != "file"))
    return select(ref_text(), File.path).join_from(File, Version).join(Adapter).where(lost)


def _freed_alive(_: datetime) -> Select[str, str]:
    freed = and_(Version.freed_at.is_not(None), Version.deleted_at.is_(None))
    return select(ref_text(), Version.digest).join_from(Version, Adapter).where(freed)


def _without(role: str) -> Callable[[datetime], Select[str, str]]:
    def query(_: datetime) -> Select[str, str]:
        there = exists().where(File.version_id == Version.id, File.role == role)
        return select(ref_text(), literal(role)).join_from(Version, Adapter).where(~there)

    return query


def _without_document(_: datetime) -> Select[str, str]:
    there = exists().where(Document.version_id == Version.id, Document.kind == "config")
    # A freed version that was rebuilt has none: they were read from its files.
    lacking = ~there & Version.freed_at.is_(None)
    return select(ref_text(), literal("config")).join_from(Version, Adapter).where(lacking)


def _wrong_size(_: datetime) -> Select[str, str]:
    mine = and_(File.version_id == Version.id, File.role == "file")
    total = select(func.sum(File.size)).where(mine).correlate(Version).scalar_subquery()
    return select(ref_text(), cast(total, String)).join_from(Version, Adapter).where(Version.size != total)


def _unknown_parent(_: datetime) -> Select[str, str]:
    joined = select(ref_text(), LineageEdge.parent_digest).join_from(
        LineageEdge, Version, LineageEdge.child_id == Version.id
    )
    return joined.join(Adapter).where(LineageEdge.parent_id.is_(None))


def _needed(state: str) -> Callable[[datetime], Select[str, str]]:
    def query(_: datetime) -> Select[str, str]:
        wrong = and_(Blob.state == state, exists().where(File.blob_digest == Blob.digest))
        return select(Blob.digest, literal(state)).where(wrong)

    return query


def _spent_lease(moment: datetime) -> Select[str, str]:
    return select(Lease.id, cast(Lease.expires_at, String)).where(Lease.expires_at <= moment)


def _running_lease(moment: datetime) -> Select[str, str]:
    ends = (Lease.expires_at > moment, Lease.expires_at < NEVER)
    return select(Lease.id, cast(Lease.expires_at, String)).where(*ends)


def _artifact_text() -> ColumnElement[str]:
    return literal("artifact ") + cast(Artifact.id, String)


def _unheld_artifact(_: datetime) -> Select[str, str]:
    held = exists().where(Lease.id == Artifact.lease_id)
    return select(_artifact_text(), func.coalesce(Artifact.lease_id, "")).where(Artifact.lease_id.is_not(None), ~held)


def _artifact_without_blob(_: datetime) -> Select[str, str]:
    known = exists().where(Blob.digest == LeaseBlob.digest, Blob.state != "deleting")
    joined = select(_artifact_text(), LeaseBlob.digest).join(LeaseBlob, LeaseBlob.lease_id == Artifact.lease_id)
    return joined.where(~known)


def _endless_lease(_: datetime) -> Select[str, str]:
    named = exists().where(Artifact.lease_id == Lease.id, Artifact.removed_at.is_(None))
    return select(Lease.id, func.coalesce(Lease.owner, "")).where(Lease.expires_at >= NEVER, ~named)


ROW_RULES: tuple[RowRule, ...] = (
    RowRule("dangling-alias", "error", "alias points at a deleted or another's version", _dangling_alias),
    RowRule("number-beyond-counter", "error", "number above the adapter's counter", _number_beyond_counter),
    RowRule("wrong-newest", "error", "the newest mark is wrong; the highest number is", _wrong_newest),
    RowRule("file-without-blob", "error", "a file names no blob", _without_blob),
    RowRule("freed-alive", "error", "blobs were freed but the version is not deleted", _freed_alive),
    RowRule("missing-manifest-row", "error", "no file of role", _without("manifest")),
    RowRule("missing-record-row", "error", "no file of role", _without("record")),
    RowRule("needed-blob-deleted", "error", "a file names a blob that gc was let delete", _needed("deleting")),
    RowRule("needed-blob-condemned", "info", "a file names it, so the next gc marks it live", _needed("condemned")),
    RowRule("missing-document", "warning", "no document of kind", _without_document),
    RowRule("wrong-version-size", "error", "size differs from that of the files together", _wrong_size),
    RowRule("unknown-parent", "info", "a parent is known by its digest alone", _unknown_parent),
    RowRule("spent-lease", "info", "a push ended without dropping its lease, which expired", _spent_lease),
    RowRule("unheld-artifact", "error", "no lease keeps what it has in the store", _unheld_artifact),
    RowRule("artifact-without-blob", "error", "no blob is known for what it keeps", _artifact_without_blob),
    RowRule("endless-lease", "warning", "it keeps blobs for ever, and no artifact has it", _endless_lease),
    RowRule("running-lease", "info", "a push is running, or died; the lease expires", _running_lease),
)


def _sqlite_integrity(session: Session) -> list[StoreFinding]:
    connection = session.connection()
    rows = [str(row[0]) for row in connection.exec_driver_sql("PRAGMA integrity_check")]
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
    return [
        *(StoreFinding("database-damaged", "error", "catalog", row) for row in rows if row != "ok"),
        *(StoreFinding("broken-reference", "error", f"{row[0]} row {row[1]}", f"no such {row[2]}") for row in broken),
    ]
