"""The rows of a version: its files, documents and edges, the same for a push, an import and a rebuild."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select, update

from registry.catalog.database import insert_into
from registry.catalog.newest import IS_NEWEST
from registry.errors import ConflictError
from registry.findings.keptchecks import base_keys
from registry.findings.rulesets import ruleset
from registry.findings.verdicts import CHECKIN
from registry.models import Adapter, CheckResult, Document, File, LineageEdge, Recipe, Version
from registry.records.blobrows import know_blobs
from registry.results import FileEntry

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sqlalchemy.orm import Session

    from registry.records.draft import Parent, RecipeDraft, VersionDraft
    from registry.values.refs import Name

# Absolute, so that no file of a version can have this path.
MANIFEST_PATH = "/manifest"


def locked_adapter(session: Session, name: Name) -> Adapter:
    """The adapter of a name, made where it is new, locked until the transaction ends."""
    mine = select(Adapter).where(Adapter.namespace == name.namespace, Adapter.name == name.name).with_for_update()
    adapter = session.scalar(mine)
    if adapter is None:
        row = insert_into(session, Adapter).values(namespace=name.namespace, name=name.name)
        session.execute(row.on_conflict_do_nothing(index_elements=["namespace", "name"]))
        adapter = session.scalars(mine).one()
    return adapter


def insert_version(
    session: Session, adapter: Adapter, draft: VersionDraft, number: int, *, held: bool = True
) -> Version:
    """A new version of a locked adapter, as its newest, without a record; its blobs are in the store, or with not
    `held` its manifest alone: then its files were freed.
    """
    adapter.last_number = max(adapter.last_number, number)
    manifest = FileEntry(MANIFEST_PATH, draft.manifest, draft.manifest_size)
    know_blobs(session, (*draft.files, manifest) if held else (manifest,))
    # The old newest gives its flag away first: the index allows one per adapter.
    session.execute(
        update(Version)
        .where(Version.adapter_id == adapter.id, IS_NEWEST)
        .values(newest=False)
        .execution_options(synchronize_session=False)
    )
    version = _row(adapter, draft, number)
    version.recipe_id = None if draft.recipe is None else _recipe_id(session, draft.recipe)
    session.add(version)
    session.flush()
    insert_files(session, version.id, draft.files, manifest, held=held)
    insert_documents(session, version.id, draft.documents)
    return version


def insert_files(
    session: Session, version_id: int, files: Iterable[FileEntry], manifest: FileEntry, *, held: bool = True
) -> None:
    """The rows of a version's files and of its manifest, whose blobs are known; rows that are there stay."""
    rows = [
        {
            "version_id": version_id,
            "path": entry.path,
            "role": role,
            "blob_digest": entry.sha256 if held or role != "file" else None,
            "sha256": entry.sha256,
            "size": entry.size,
        }
        for entry, role in [*((entry, "file") for entry in files), (manifest, "manifest")]
    ]
    session.execute(insert_into(session, File).on_conflict_do_nothing(index_elements=["version_id", "path"]), rows)


def insert_documents(session: Session, version_id: int, documents: Mapping[str, str]) -> None:
    """The rows of a version's documents; rows that are there stay."""
    rows = [{"version_id": version_id, "kind": kind, "body": body} for kind, body in documents.items()]
    if rows:
        same = ["version_id", "kind"]
        session.execute(insert_into(session, Document).on_conflict_do_nothing(index_elements=same), rows)


def add_parents(session: Session, version_id: int, parents: tuple[Parent, ...]) -> int:
    """Edges that are not there yet; how many. A parent given twice becomes one edge with both weights.

    A push that is tried again with `--parent NAME` meets its own version as the newest: no version is its own parent.
    """
    edges: dict[tuple[str, str], dict[str, Any]] = {}
    for parent in (one for one in parents if one.version_id != version_id):
        edge = edges.get((parent.digest, parent.relation))
        if edge is None:
            edges[parent.digest, parent.relation] = {
                "child_id": version_id,
                "parent_id": parent.version_id,
                "parent_digest": parent.digest,
                "relation": parent.relation,
                "weight": parent.weight,
                "position": len(edges),
            }
        elif parent.weight is not None:
            edge["weight"] = (edge["weight"] or 0.0) + parent.weight
    if not edges:
        return 0
    _refuse_cycle(session, version_id, {edge["parent_id"] for edge in edges.values()} - {None})
    before = _edges(session, version_id)
    same = ["child_id", "relation", "parent_digest"]
    session.execute(insert_into(session, LineageEdge).on_conflict_do_nothing(index_elements=same), list(edges.values()))
    return _edges(session, version_id) - before


def _edges(session: Session, version_id: int) -> int:
    return session.scalar(select(func.count()).where(LineageEdge.child_id == version_id)) or 0


def add_check(session: Session, version_id: int, draft: VersionDraft) -> None:
    """What the check-in rules said."""
    findings = json.dumps([finding.as_json() for finding in draft.findings], ensure_ascii=False)
    values = {"status": draft.status, "findings": findings, "created_at": func.current_timestamp()}
    rules = draft.ruleset or ruleset(CHECKIN, base_keys(session, [version_id])[version_id])
    row = insert_into(session, CheckResult).values(version_id=version_id, target=CHECKIN, ruleset=rules, **values)
    session.execute(row.on_conflict_do_update(index_elements=["version_id", "target", "ruleset"], set_=values))


def _refuse_cycle(session: Session, version_id: int, parents: set[int]) -> None:
    """ConflictError where a parent comes from this version, which can only be one that was there before."""
    above = select(Version.id).where(Version.id.in_(parents)).cte("above", recursive=True)
    step = select(LineageEdge.parent_id).join(above, LineageEdge.child_id == above.c.id)
    above = above.union(step.where(LineageEdge.parent_id.is_not(None)))
    if session.scalar(select(above.c.id).where(above.c.id == version_id).limit(1)) is not None:
        raise ConflictError("a parent comes from this version itself: lineage would run in a circle")


def _row(adapter: Adapter, draft: VersionDraft, number: int) -> Version:
    return Version(
        adapter_id=adapter.id,
        number=number,
        digest=draft.manifest,
        newest=True,
        tensors_digest=draft.tensors_digest,
        peft_type=draft.peft_type,
        rank=draft.rank,
        modules=draft.modules,
        parameters=draft.parameters,
        dtype=draft.dtype,
        norm=draft.norm,
        size=draft.size,
        base_id=draft.base_id,
        base_name=draft.base_name,
        message=draft.message,
        pushed_by=draft.actor,
        git_commit=draft.git_commit,
        run_id=draft.run_id,
        data_digest=draft.data_digest,
        licence=draft.licence,
    )


def _recipe_id(session: Session, recipe: RecipeDraft) -> int:
    row = insert_into(session, Recipe).values(digest=recipe.digest, method=recipe.method, body=recipe.text)
    session.execute(row.on_conflict_do_nothing(index_elements=["digest"]))
    return session.scalars(select(Recipe.id).where(Recipe.digest == recipe.digest)).one()
