"""Versions and what belongs to one: files, documents, lineage, tags and metrics."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Boolean, CheckConstraint, Float, ForeignKey, Index, String, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from registry.models.metadata import CreatedAt, Digest, Identity, LongText, Name, Number, Table, UtcTime, digest_check

_NEWEST = text("newest")


def _newest_index(*columns: str) -> Index:
    """An index over the newest versions alone: one row per adapter, which is what most lists read."""
    name = f"ix_versions_newest_{columns[0]}"
    return Index(name, *columns, sqlite_where=_NEWEST, postgresql_where=_NEWEST)


def _said_index(column: str) -> Index:
    """An index over the versions of which something is said: most say nothing of most."""
    said = text(f"{column} IS NOT NULL")
    return Index(f"ix_versions_{column}", column, sqlite_where=said, postgresql_where=said)


class Version(Table):
    """An immutable set of files, with the summary facts that lists filter by.

    `newest` marks the highest number of its adapter that is not deleted: lists of adapters read only those rows.
    """

    __tablename__ = "versions"
    __table_args__ = (
        UniqueConstraint("adapter_id", "number"),
        UniqueConstraint("adapter_id", "digest"),
        digest_check("digest"),
        CheckConstraint("number > 0", name="number_positive"),
        CheckConstraint("size >= 0", name="size_not_negative"),
        CheckConstraint("deleted_at IS NULL OR NOT newest", name="deleted_is_not_newest"),
        Index("uq_versions_newest", "adapter_id", unique=True, sqlite_where=_NEWEST, postgresql_where=_NEWEST),
        Index("ix_versions_digest", "digest"),
        Index("ix_versions_tensors_digest", "tensors_digest"),
        Index("ix_versions_base_id", "base_id", "rank"),
        Index("ix_versions_base_name", "base_name", "rank"),
        Index("ix_versions_created_at", "created_at"),
        Index("ix_versions_licence", "licence"),
        *(_said_index(column) for column in ("git_commit", "run_id", "data_digest", "pushed_by")),
        _newest_index("id", "adapter_id", "number", "rank", "size"),
        _newest_index("base_id", "rank"),
        _newest_index("base_name", "rank"),
        _newest_index("rank"),
    )

    id: Mapped[Identity]
    adapter_id: Mapped[Number] = mapped_column(ForeignKey("adapters.id"))
    number: Mapped[Number]
    digest: Mapped[Digest] = mapped_column(comment="sha256 of the manifest, which is a blob itself")
    record_digest: Mapped[str | None] = mapped_column(String(71), comment="the small blob the catalog is rebuilt from")
    tensors_digest: Mapped[str | None] = mapped_column(String(71), comment="ignores header and file order")
    newest: Mapped[bool] = mapped_column(Boolean(create_constraint=True, name="newest_bool"))
    peft_type: Mapped[str] = mapped_column(String(64))
    rank: Mapped[int | None] = mapped_column(comment="largest effective rank")
    modules: Mapped[int] = mapped_column(comment="number of adapted modules")
    parameters: Mapped[Number | None]
    dtype: Mapped[str | None] = mapped_column(String(16))
    norm: Mapped[float | None] = mapped_column(Float(53), comment="Frobenius norm over all delta weights together")
    size: Mapped[Number] = mapped_column(comment="bytes of all files together")
    base_id: Mapped[Number | None] = mapped_column(ForeignKey("bases.id"))
    base_name: Mapped[str | None] = mapped_column(String(1024), comment="as the config or the pusher spelled it")
    recipe_id: Mapped[Number | None] = mapped_column(ForeignKey("recipes.id"))
    message: Mapped[str | None] = mapped_column(String(4096))
    pushed_by: Mapped[str | None] = mapped_column(String(256))
    git_commit: Mapped[str | None] = mapped_column(String(64))
    run_id: Mapped[str | None] = mapped_column(String(256))
    data_digest: Mapped[str | None] = mapped_column(String(256))
    licence: Mapped[str | None] = mapped_column(String(256))
    created_at: Mapped[CreatedAt]
    deleted_at: Mapped[datetime | None] = mapped_column(UtcTime)
    freed_at: Mapped[datetime | None] = mapped_column(UtcTime, comment="when gc freed its blobs; undelete ends here")


class File(Table):
    """A file of a version. The foreign key is promise P3: no row points at a blob the catalog does not know."""

    __tablename__ = "files"
    __table_args__ = (Index("ix_files_blob_digest", "blob_digest"), digest_check("sha256"))

    version_id: Mapped[Number] = mapped_column(ForeignKey("versions.id"), primary_key=True)
    path: Mapped[str] = mapped_column(String(512), primary_key=True)
    role: Mapped[str] = mapped_column(String(16), comment="file, manifest or record")
    blob_digest: Mapped[str | None] = mapped_column(ForeignKey("blobs.digest"), comment="null once gc freed it")
    sha256: Mapped[Digest] = mapped_column(comment="stays when the blob is freed")
    size: Mapped[Number]


class Document(Table):
    """A compact JSON document of a version: `modules`, `config`, `report` and so on."""

    __tablename__ = "documents"

    version_id: Mapped[Number] = mapped_column(ForeignKey("versions.id"), primary_key=True)
    kind: Mapped[str] = mapped_column(String(32), primary_key=True)
    body: Mapped[LongText]


class LineageEdge(Table):
    """From a version to a parent version. The digest stays true where the parent came from another registry."""

    __tablename__ = "lineage"
    __table_args__ = (
        UniqueConstraint("child_id", "relation", "parent_digest"),
        Index("ix_lineage_parent_id", "parent_id"),
        digest_check("parent_digest"),
        CheckConstraint("relation IN ('merged_from', 'finetuned_from', 'converted_from')", name="relation_known"),
    )

    id: Mapped[Identity]
    child_id: Mapped[Number] = mapped_column(ForeignKey("versions.id"))
    parent_id: Mapped[Number | None] = mapped_column(ForeignKey("versions.id"))
    parent_digest: Mapped[Digest]
    relation: Mapped[str] = mapped_column(String(32))
    weight: Mapped[float | None] = mapped_column(Float(53))
    position: Mapped[int] = mapped_column(server_default="0")


class Tag(Table):
    """`key=value` on a version."""

    __tablename__ = "tags"
    __table_args__ = (Index("ix_tags_key_value", "key", "value", "version_id"),)

    version_id: Mapped[Number] = mapped_column(ForeignKey("versions.id"), primary_key=True)
    key: Mapped[Name] = mapped_column(primary_key=True)
    value: Mapped[str] = mapped_column(String(512))


class Metric(Table):
    """`name=number` on a version."""

    __tablename__ = "metrics"
    __table_args__ = (Index("ix_metrics_name_value", "name", "value", "version_id"),)

    version_id: Mapped[Number] = mapped_column(ForeignKey("versions.id"), primary_key=True)
    name: Mapped[Name] = mapped_column(primary_key=True)
    value: Mapped[float] = mapped_column(Float(53))
