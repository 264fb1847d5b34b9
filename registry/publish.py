"""The one transaction that makes a version."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select, update

from registry import leases
from registry.aliases import move
from registry.audit import note
from registry.database import insert_into
from registry.digests import digest_of
from registry.draft import Parent, RecipeDraft, VersionDraft
from registry.errors import ConflictError
from registry.labels import check_texts, put_metrics, put_tags
from registry.manifest import BaseRecord, ParentRecord, VersionRecord, record_bytes
from registry.models import Adapter, Base, Blob, CheckResult, Document, File, LineageEdge, Recipe, Version
from registry.newest import IS_NEWEST, mark_newest
from registry.results import FileEntry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sqlalchemy.orm import Session

    from registry.refs import Name

__all__ = ["Parent", "Published", "RecipeDraft", "VersionDraft", "record"]

# Absolute, so that no file of a version can have these paths.
MANIFEST_PATH = "/manifest"
RECORD_PATH = "/record"


@dataclass(frozen=True, slots=True)
class Published:
    """What `record` did. `newest` is the highest number that is not deleted; `restored` tells of a deleted version that
    this push brought back.
    """

    version_id: int
    number: int
    created: bool
    newest: int
    restored: bool = False


def record(session: Session, draft: VersionDraft, *, write_record: Callable[[bytes], FileEntry]) -> Published:
    """Make a version of a draft, or find the one that holds the same content and add what is new to it.

    `write_record` places the record blob durably and says what it is; it may be called more than once when the
    transaction is tried again. Raises ConflictError where the draft's lease ran out, BusyError while gc is deleting one
    of the blobs.
    """
    check_texts(draft.tags, draft.metrics, draft.message)
    leases.share_publishing(session)
    if draft.lease is not None:
        leases.require(session, draft.lease)
    adapter = _locked_adapter(session, draft.name)
    same = select(Version).where(Version.adapter_id == adapter.id, Version.digest == draft.manifest)
    version = session.scalar(same.with_for_update())  # gc frees a deleted version under the same lock
    created, restored = version is None, version is not None and version.deleted_at is not None
    if version is None:
        version = _insert(session, adapter, draft, write_record)
    elif restored or version.freed_at is not None:
        _restore(session, version)
    newest = version.number if created else mark_newest(session, adapter.id)
    _add(session, adapter, version, draft)
    if draft.lease is not None:
        leases.release(session, draft.lease)
    subject = f"{draft.name}@{version.number}"
    note(session, "push", subject, actor=draft.actor, created=created, restored=restored, digest=version.digest)
    return Published(version.id, version.number, created, newest or version.number, restored)


def _locked_adapter(session: Session, name: Name) -> Adapter:
    mine = select(Adapter).where(Adapter.namespace == name.namespace, Adapter.name == name.name).with_for_update()
    adapter = session.scalar(mine)
    if adapter is None:
        row = insert_into(session, Adapter).values(namespace=name.namespace, name=name.name)
        session.execute(row.on_conflict_do_nothing(index_elements=["namespace", "name"]))
        adapter = session.scalars(mine).one()
    return adapter


def _insert(
    session: Session, adapter: Adapter, draft: VersionDraft, write_record: Callable[[bytes], FileEntry]
) -> Version:
    number = adapter.last_number + 1
    adapter.last_number = number
    manifest = FileEntry(MANIFEST_PATH, draft.manifest, draft.manifest_size)
    _know_blobs(session, (*draft.files, manifest))
    entry = _write_record(session, draft, number, write_record)
    # The old newest gives its flag away first: the index allows one per adapter.
    session.execute(
        update(Version)
        .where(Version.adapter_id == adapter.id, IS_NEWEST)
        .values(newest=False)
        .execution_options(synchronize_session=False)
    )
    version = _row(adapter, draft, number)
    version.record_digest = entry.sha256
    version.recipe_id = None if draft.recipe is None else _recipe_id(session, draft.recipe)
    session.add(version)
    session.flush()
    _insert_files(session, version.id, draft.files, manifest, FileEntry(RECORD_PATH, entry.sha256, entry.size))
    if draft.documents:
        rows = [{"version_id": version.id, "kind": kind, "body": body} for kind, body in draft.documents.items()]
        session.execute(insert_into(session, Document), rows)
    return version


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


def _write_record(
    session: Session, draft: VersionDraft, number: int, write_record: Callable[[bytes], FileEntry]
) -> FileEntry:
    content = record_bytes(
        VersionRecord(
            name=str(draft.name),
            number=number,
            manifest=draft.manifest,
            parents=tuple(ParentRecord(one.digest, one.relation, one.weight) for one in draft.parents),
            base=_base_record(session, draft),
            recipe=None if draft.recipe is None else {"method": draft.recipe.method, "body": dict(draft.recipe.body)},
        )
    )
    # Its row is locked before its file is placed: gc may be at an equal record that an aborted push left behind.
    entry = FileEntry(RECORD_PATH, digest_of(content), len(content))
    _know_blobs(session, (entry,))
    write_record(content)
    return entry


def _base_record(session: Session, draft: VersionDraft) -> BaseRecord | None:
    if draft.base_id is None:
        return None if draft.base_name is None else BaseRecord(draft.base_name)
    base = session.get_one(Base, draft.base_id)
    return BaseRecord(draft.base_name, base.fingerprint, base.layout)


def _know_blobs(session: Session, entries: Iterable[FileEntry]) -> None:
    """Rows for blobs that the store holds: new ones inserted, known ones live. Always in order of digest."""
    sizes = {entry.sha256: entry.size for entry in entries}
    rows = [{"digest": digest, "size": size} for digest, size in sorted(sizes.items())]
    session.execute(insert_into(session, Blob).on_conflict_do_nothing(index_elements=["digest"]), rows)
    leases.keep(session, sizes)


def _insert_files(
    session: Session, version_id: int, files: Iterable[FileEntry], manifest: FileEntry, record_entry: FileEntry
) -> None:
    roles = [*((entry, "file") for entry in files), (manifest, "manifest"), (record_entry, "record")]
    rows = [
        {
            "version_id": version_id,
            "path": entry.path,
            "role": role,
            "blob_digest": entry.sha256,
            "sha256": entry.sha256,
            "size": entry.size,
        }
        for entry, role in roles
    ]
    session.execute(insert_into(session, File), rows)


def _recipe_id(session: Session, recipe: RecipeDraft) -> int:
    row = insert_into(session, Recipe).values(digest=recipe.digest, method=recipe.method, body=recipe.text)
    session.execute(row.on_conflict_do_nothing(index_elements=["digest"]))
    return session.scalars(select(Recipe.id).where(Recipe.digest == recipe.digest)).one()


def _restore(session: Session, version: Version) -> None:
    """Undo a deletion, also after gc freed the files: this push has just placed them again."""
    rows = session.scalars(select(File).where(File.version_id == version.id)).all()
    _know_blobs(session, [FileEntry(row.path, row.sha256, row.size) for row in rows])
    for row in rows:
        row.blob_digest = row.sha256
    version.deleted_at = None
    version.freed_at = None
    session.flush()


def _add(session: Session, adapter: Adapter, version: Version, draft: VersionDraft) -> None:
    """What a push adds to a version whether or not it is new."""
    if version.base_id is None and draft.base_id is not None:
        version.base_id = draft.base_id
    put_tags(session, version.id, draft.tags)
    put_metrics(session, version.id, draft.metrics)
    _add_parents(session, version.id, draft.parents)
    _add_check(session, version.id, draft)
    for alias in draft.aliases:
        move(session, adapter, alias, version, actor=draft.actor, action="set")


def _add_parents(session: Session, version_id: int, parents: tuple[Parent, ...]) -> None:
    """Edges that are not there yet. A parent given twice becomes one edge with both weights.

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
    if edges:
        _refuse_cycle(session, version_id, {edge["parent_id"] for edge in edges.values()} - {None})
        same = ["child_id", "relation", "parent_digest"]
        session.execute(
            insert_into(session, LineageEdge).on_conflict_do_nothing(index_elements=same), list(edges.values())
        )


def _refuse_cycle(session: Session, version_id: int, parents: set[int]) -> None:
    """ConflictError where a parent comes from this version, which can only be one that was there before."""
    above = select(Version.id).where(Version.id.in_(parents)).cte("above", recursive=True)
    step = select(LineageEdge.parent_id).join(above, LineageEdge.child_id == above.c.id)
    above = above.union(step.where(LineageEdge.parent_id.is_not(None)))
    if session.scalar(select(above.c.id).where(above.c.id == version_id).limit(1)) is not None:
        raise ConflictError("a parent comes from this version itself: lineage would run in a circle")


def _add_check(session: Session, version_id: int, draft: VersionDraft) -> None:
    findings = json.dumps([finding.as_json() for finding in draft.findings], ensure_ascii=False)
    values = {"status": draft.status, "findings": findings, "created_at": func.current_timestamp()}
    row = insert_into(session, CheckResult).values(
        version_id=version_id, target="checkin", ruleset=draft.ruleset, **values
    )
    session.execute(row.on_conflict_do_update(index_elements=["version_id", "target", "ruleset"], set_=values))
