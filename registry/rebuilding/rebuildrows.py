"""The rows that a rebuild makes: one version's, its edges, and the numbers that stay taken."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import exists, func, select, update

from registry.catalog.audit import note
from registry.catalog.database import insert_into
from registry.catalog.newest import mark_newest
from registry.errors import ConflictError
from registry.models import Adapter, Document, File, LineageEdge, Version
from registry.rebuilding.redraft import on_base, parents_here
from registry.records.blobrows import know_blobs
from registry.records.recordrows import record_path
from registry.results import FileEntry, StoreFinding
from registry.values.refs import parse_name
from registry.versions.resolve import numbered
from registry.versions.versionrows import (
    MANIFEST_PATH,
    add_check,
    add_parents,
    insert_documents,
    insert_files,
    insert_version,
    locked_adapter,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import Session

    from engine.format.facts import BaseFacts
    from registry.records.draft import VersionDraft
    from registry.records.recordscan import Kept


@dataclass(frozen=True, slots=True)
class Plan:
    """A version to make or complete; with not `held` its files are gone."""

    kept: Kept
    draft: VersionDraft
    base: BaseFacts | None
    held: bool


def existing(session: Session) -> dict[tuple[str, int], tuple[str, bool, int]]:
    """Every version by name and number: its digest, whether all that belongs to it is there, and its edges."""
    counts = session.execute(select(LineageEdge.child_id, func.count()).group_by(LineageEdge.child_id))
    edges = {child: count for child, count in counts}  # noqa: C416 (rows are no pairs to mypy)
    whole = _has("manifest") & _has("record") & _sized() & (_documented() | Version.freed_at.is_not(None))
    query = select(Version.id, Adapter.namespace, Adapter.name, Version.number, Version.digest, whole.label("whole"))
    rows = session.execute(query.join(Adapter, Adapter.id == Version.adapter_id)).all()
    return {(f"{row[1]}/{row[2]}", row[3]): (row[4], bool(row[5]), edges.get(row[0], 0)) for row in rows}


def restore(session: Session, plan: Plan, *, actor: str | None) -> None:
    """Make a version as its record tells, or add the rows that it lacks; a row that is there stays as it is."""
    record = plan.kept.best.record
    adapter = locked_adapter(session, parse_name(record.name))
    draft = on_base(session, plan.draft, record, plan.base)
    mine = select(Version).where(Version.adapter_id == adapter.id, Version.number == record.number)
    version = session.scalar(mine.with_for_update())
    if version is None:
        version = insert_version(session, adapter, draft, record.number, held=plan.held)
        _set_moments(version, plan)
        add_check(session, version.id, draft)
    elif version.digest == record.manifest:
        _complete(session, version, draft, held=plan.held)
    else:
        return  # a push took the number while the files were read
    _keep_records(session, version, plan.kept)
    session.flush()
    mark_newest(session, adapter.id)
    note(session, "rebuild", record.ref, actor=actor, digest=version.digest)


def add_edges(session: Session, batch: Sequence[Kept]) -> list[StoreFinding]:
    """The edges of versions whose parents, where there are any, have rows now."""
    found = []
    for one in batch:
        record = one.best.record
        version = numbered(session, parse_name(record.name), record.number)
        if version is None or not record.parents:
            continue
        for parent in parents_here(session, record.parents):
            try:
                add_parents(session, version.id, (parent,))
            except ConflictError as error:
                found.append(StoreFinding("lineage-circle", "warning", record.ref, f"{parent.digest}: {error}"))
        _order_edges(session, version.id, [parent.digest for parent in record.parents])
    return found


def reserve(session: Session, highest: Mapping[str, int], *, actor: str | None) -> None:
    """Numbers that a record names are taken, whether or not its version could be made (P2).

    The audit line is what gc asks for: all that the store tells is in the catalog now.
    """
    note(session, "rebuild", "catalog", actor=actor, names=len(highest))
    for name, number in sorted(highest.items()):
        adapter = locked_adapter(session, parse_name(name))
        adapter.last_number = max(adapter.last_number, number)


def _set_moments(version: Version, plan: Plan) -> None:
    origin = plan.kept.best.record.origin
    if origin.created_at is not None:
        version.created_at = datetime.fromisoformat(origin.created_at)
    if origin.deleted_at is not None:
        version.deleted_at = datetime.fromisoformat(origin.deleted_at)
    if not plan.held:
        version.freed_at = version.deleted_at = version.deleted_at or version.created_at
    if version.deleted_at is not None:
        version.newest = False


def _complete(session: Session, version: Version, draft: VersionDraft, *, held: bool) -> None:
    manifest = FileEntry(MANIFEST_PATH, draft.manifest, draft.manifest_size)
    held = held and version.freed_at is None
    know_blobs(session, (*draft.files, manifest) if held else (manifest,))
    insert_files(session, version.id, draft.files, manifest, held=held)
    insert_documents(session, version.id, draft.documents)
    if version.base_id is None:
        version.base_id = draft.base_id


def _keep_records(session: Session, version: Version, kept: Kept) -> None:
    """File rows of the records and of what the newest names, where the store has that."""
    best = kept.best.record
    known = [(record_path(one.record.sequence), "record", one.digest, one.size) for one in reversed(kept.records)]
    held = [(role, digest) for role, digest in best.enclosures.items() if digest in kept.enclosed]
    known += [(f"/{role}", role, digest, kept.enclosed[digest]) for role, digest in held]
    know_blobs(session, [FileEntry(path, digest, size) for path, _, digest, size in known])
    for path, role, digest, size in known:
        row = insert_into(session, File).values(
            version_id=version.id, path=path, role=role, blob_digest=digest, sha256=digest, size=size
        )
        session.execute(row.on_conflict_do_nothing(index_elements=["version_id", "path"]))
    if version.record_digest is None:
        version.record_digest = kept.best.digest


def _order_edges(session: Session, version_id: int, digests: list[str]) -> None:
    for position, digest in enumerate(digests):
        mine = (LineageEdge.child_id == version_id, LineageEdge.parent_digest == digest)
        session.execute(update(LineageEdge).where(*mine).values(position=position))


def _has(role: str) -> ColumnElement[bool]:
    return exists().where(File.version_id == Version.id, File.role == role)


def _sized() -> ColumnElement[bool]:
    total = select(func.sum(File.size)).where(File.version_id == Version.id, File.role == "file")
    return func.coalesce(total.correlate(Version).scalar_subquery(), -1) == Version.size


def _documented() -> ColumnElement[bool]:
    kinds = ("config", "modules")
    count = select(func.count()).where(Document.version_id == Version.id, Document.kind.in_(kinds))
    return count.correlate(Version).scalar_subquery() == len(kinds)
