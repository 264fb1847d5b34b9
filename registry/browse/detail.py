"""`show`: everything the catalog knows about one version."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from registry.browse.lineage import neighbours
from registry.browse.listing import base_label, labels_of
from registry.browse.rankneeds import ranks_for
from registry.errors import NotFoundError
from registry.findings.keptchecks import check_states
from registry.findings.storedfacts import KIND
from registry.models import Adapter, CheckResult, Document, File, Recipe, Version
from registry.results import FileEntry, VersionDetail

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Row
    from sqlalchemy.orm import Session

_FACTS = (
    Version.id,
    Version.number,
    Version.digest,
    Version.tensors_digest,
    Version.peft_type,
    Version.rank,
    Version.size,
    Version.dtype,
    Version.norm,
    Version.message,
    Version.pushed_by,
    Version.git_commit,
    Version.run_id,
    Version.data_digest,
    Version.licence,
    Version.created_at,
    Version.deleted_at,
    Version.recipe_id,
    Adapter.namespace,
    Adapter.name,
)


def show(session: Session, version_id: int, *, energy: float | None = None) -> VersionDetail:
    """A version with its files, documents, findings at check-in, and lineage one step up and down.

    `energy` adds what `ranks_for` finds, or raises what it does.
    """
    facts = select(*_FACTS, base_label().label("base")).join(Adapter, Adapter.id == Version.adapter_id)
    row = session.execute(facts.where(Version.id == version_id)).one_or_none()
    if row is None:
        raise NotFoundError(f"version row {version_id} is not in this catalog")
    labels = labels_of(session, [version_id])
    documents = _documents(session, version_id)
    name = f"{row.namespace}/{row.name}"
    ref = f"{name}@{row.number}"
    modules, report = tuple(documents.get("modules", ())), documents.get("report")
    return VersionDetail(
        ref=ref,
        name=name,
        version=row.number,
        digest=row.digest,
        tensors_digest=row.tensors_digest,
        base=row.base,
        peft_type=row.peft_type,
        rank=row.rank,
        size=row.size,
        dtype=row.dtype,
        norm=row.norm,
        aliases=labels.aliases.get(version_id, ()),
        tags=labels.tags.get(version_id, {}),
        metrics=labels.metrics.get(version_id, {}),
        message=row.message,
        pushed_by=row.pushed_by,
        created_at=row.created_at,
        deleted_at=row.deleted_at,
        files=_files(session, version_id),
        config=documents.get("config", {}),
        modules=modules,
        lineage=neighbours(session, version_id),
        recipe=_recipe(session, row),
        report=report,
        findings=_findings(session, version_id),
        git_commit=row.git_commit,
        run_id=row.run_id,
        data_digest=row.data_digest,
        licence=row.licence,
        sources=documents.get("provenance", {}).get("sources", {}),
        checks=check_states(session, [version_id])[version_id],
        ranks_for=None if energy is None else ranks_for(ref, modules, report, energy),
    )


def _files(session: Session, version_id: int) -> tuple[FileEntry, ...]:
    """The version's own files; the manifest and the record are the catalog's."""
    rows = session.execute(
        select(File.path, File.sha256, File.size)
        .where(File.version_id == version_id, File.role == "file")
        .order_by(File.path)
    )
    return tuple(FileEntry(row.path, row.sha256, row.size) for row in rows)


def _documents(session: Session, version_id: int) -> dict[str, Any]:
    shown = Document.version_id == version_id, Document.kind != KIND
    rows = session.execute(select(Document.kind, Document.body).where(*shown))
    return {row.kind: json.loads(row.body) for row in rows}


def _recipe(session: Session, version: Row[*tuple[Any, ...]]) -> Mapping[str, Any] | None:
    if version.recipe_id is None:
        return None
    row = session.execute(select(Recipe.digest, Recipe.method, Recipe.body).where(Recipe.id == version.recipe_id)).one()
    return {**json.loads(row.body), "digest": row.digest, "method": row.method}


def _findings(session: Session, version_id: int) -> tuple[Mapping[str, Any], ...]:
    """What the check-in rules said last."""
    newest = (
        select(CheckResult.findings)
        .where(CheckResult.version_id == version_id, CheckResult.target == "checkin")
        .order_by(CheckResult.id.desc())
        .limit(1)
    )
    found = session.scalar(newest)
    return () if found is None else tuple(json.loads(found))
