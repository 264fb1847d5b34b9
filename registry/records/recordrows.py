"""A version's rows become its record: composed, placed and remembered in the transaction that changes the version."""

from __future__ import annotations

import json
from datetime import UTC
from typing import TYPE_CHECKING

from sqlalchemy import exists, select

from registry.catalog.database import insert_into
from registry.models import Adapter, Base, Document, File, LineageEdge, Recipe, Version
from registry.records.blobrows import know_blobs
from registry.records.enclosures import base_bytes, report_bytes
from registry.records.record import BaseRecord, Origin, ParentRecord, Summary, VersionRecord, record_bytes
from registry.results import FileEntry
from registry.values.digests import digest_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from sqlalchemy.orm import Session

    Place = Callable[[bytes], object]

# Absolute, so that no file of a version can have this path; the same holds for "/base" and "/report".
RECORD_PATH = "/record"


def keep_record(session: Session, version: Version, place: Place) -> None:
    """Write the record of a version whose rows are complete, or the next one where it has a record already.

    `place` puts small blobs into the store durably. It is called last of all in a transaction: what refuses a change
    leaves no record of it. It may be called again when the transaction is tried again.
    """
    session.flush()
    sequence = next_sequence(session, version.id)
    record, enclosed = compose(session, version, sequence=sequence)
    for role, content in enclosed.items():
        _enclose(session, version.id, role, content, place)
    content = record_bytes(record)
    entry = FileEntry(record_path(sequence), digest_of(content), len(content))
    # Its row is locked before its file is placed: gc may be at an equal record that an aborted push left behind.
    know_blobs(session, (entry,))
    place(content)
    _remember(session, version.id, "record", entry)
    version.record_digest = entry.sha256


def compose(session: Session, version: Version, *, sequence: int = 0) -> tuple[VersionRecord, dict[str, bytes]]:
    """The record that a version's rows make, and by role the blobs that it names."""
    adapter = session.get_one(Adapter, version.adapter_id)
    base = None if version.base_id is None else base_bytes(session.get_one(Base, version.base_id))
    named = {"base": base, "report": report_bytes(_documents(session, version.id))}
    enclosed = {role: content for role, content in named.items() if content is not None}
    digests = {role: digest_of(content) for role, content in enclosed.items()}
    record = VersionRecord(
        name=f"{adapter.namespace}/{adapter.name}",
        number=version.number,
        manifest=version.digest,
        parents=_parents(session, version.id),
        base=_base(session, version, digests.get("base")),
        recipe=_recipe(session, version),
        sequence=sequence,
        summary=_summary(version),
        origin=_origin(version),
        report=digests.get("report"),
        sources=_sources(session, version.id),
    )
    return record, enclosed


def record_path(sequence: int) -> str:
    """The path under which a version keeps its record; it tells the record's sequence."""
    return RECORD_PATH if sequence == 0 else f"{RECORD_PATH}/{sequence}"


def next_sequence(session: Session, version_id: int) -> int:
    """The sequence of a version's next record: 0 where it has none."""
    paths = session.scalars(select(File.path).where(File.version_id == version_id, File.role == "record"))
    return max((1 + int(path.removeprefix(RECORD_PATH).removeprefix("/") or 0) for path in paths), default=0)


def _enclose(session: Session, version_id: int, role: str, content: bytes, place: Place) -> None:
    """One of the blobs that a record names; one that another version keeps is in the store already."""
    entry = FileEntry(f"/{role}", digest_of(content), len(content))
    there = session.scalar(select(exists().where(File.blob_digest == entry.sha256, File.role == role)))
    know_blobs(session, (entry,))
    if not there:
        place(content)
    _remember(session, version_id, role, entry)


def _remember(session: Session, version_id: int, role: str, entry: FileEntry) -> None:
    """Records before this one keep their rows, and so their blobs: a catalog restored from a backup names them."""
    values = {"role": role, "blob_digest": entry.sha256, "sha256": entry.sha256, "size": entry.size}
    row = insert_into(session, File).values(version_id=version_id, path=entry.path, **values)
    session.execute(row.on_conflict_do_update(index_elements=["version_id", "path"], set_=values))


def _parents(session: Session, version_id: int) -> tuple[ParentRecord, ...]:
    edges = (
        select(
            LineageEdge.parent_digest,
            LineageEdge.relation,
            LineageEdge.weight,
            Adapter.namespace,
            Adapter.name,
            Version.number,
        )
        .outerjoin(Version, Version.id == LineageEdge.parent_id)
        .outerjoin(Adapter, Adapter.id == Version.adapter_id)
        .where(LineageEdge.child_id == version_id)
        .order_by(LineageEdge.position, LineageEdge.id)
    )
    return tuple(
        ParentRecord(digest, relation, weight, None if number is None else f"{space}/{name}@{number}")
        for digest, relation, weight, space, name, number in session.execute(edges)
    )


def _base(session: Session, version: Version, facts: str | None) -> BaseRecord | None:
    if version.base_id is None:
        return None if version.base_name is None else BaseRecord(version.base_name)
    base = session.get_one(Base, version.base_id)
    return BaseRecord(version.base_name, base.fingerprint, base.layout, facts)


def _recipe(session: Session, version: Version) -> dict[str, object] | None:
    if version.recipe_id is None:
        return None
    recipe = session.get_one(Recipe, version.recipe_id)
    return {"method": recipe.method, "body": json.loads(recipe.body)}


def _documents(session: Session, version_id: int) -> dict[str, str]:
    """The report with the modules, which hold its spectra; nothing where there is no report."""
    rows = select(Document.kind, Document.body).where(Document.version_id == version_id)
    report = session.execute(rows.where(Document.kind == "report")).all()
    found = [*report, *session.execute(rows.where(Document.kind == "modules"))] if report else []
    return {row.kind: row.body for row in found}


def _summary(version: Version) -> Summary:
    return Summary(
        peft_type=version.peft_type,
        modules=version.modules,
        tensors_digest=version.tensors_digest,
        rank=version.rank,
        parameters=version.parameters,
        dtype=version.dtype,
        norm=version.norm,
    )


def _origin(version: Version) -> Origin:
    return Origin(
        created_at=_text(version.created_at),
        deleted_at=_text(version.deleted_at),
        message=version.message,
        pushed_by=version.pushed_by,
        git_commit=version.git_commit,
        run_id=version.run_id,
        data_digest=version.data_digest,
        licence=version.licence,
    )


def _sources(session: Session, version_id: int) -> dict[str, str]:
    query = select(Document.body).where(Document.version_id == version_id, Document.kind == "provenance")
    body = session.scalar(query)
    found: dict[str, str] = {} if body is None else json.loads(body)["sources"]
    return found


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
