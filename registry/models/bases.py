"""Base models: content, names, and twins (quantised, cast or renamed copies)."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from registry.models.metadata import CreatedAt, Digest, Identity, LongText, Number, Table, digest_check


class Base(Table):
    """A base model. `fingerprint` is null for bases known from their config alone; `parameters` is path to shape."""

    __tablename__ = "bases"
    __table_args__ = (
        digest_check("layout"),
        UniqueConstraint("fingerprint"),
        Index("ix_bases_layout", "layout"),
    )

    id: Mapped[Identity]
    fingerprint: Mapped[str | None] = mapped_column(String(71))
    layout: Mapped[Digest]
    architecture: Mapped[str | None] = mapped_column(String(256))
    model_type: Mapped[str | None] = mapped_column(String(128))
    dtype: Mapped[str | None] = mapped_column(String(32))
    quantization: Mapped[str | None] = mapped_column(String(64))
    tensors: Mapped[int]
    parameter_count: Mapped[Number]
    parameters: Mapped[LongText] = mapped_column(comment="JSON object: canonical parameter path to shape")
    config: Mapped[LongText] = mapped_column(comment="config.json, verbatim JSON object")
    norms: Mapped[LongText | None] = mapped_column(comment="JSON object: path to Frobenius norm, where known")
    created_at: Mapped[CreatedAt]


class BaseName(Table):
    """A name of a base. The highest id is what a name means today; older rows say what it meant before."""

    __tablename__ = "base_names"
    __table_args__ = (UniqueConstraint("name", "base_id"), Index("ix_base_names_base_id", "base_id"))

    id: Mapped[Identity]
    name: Mapped[str] = mapped_column(String(1024))
    base_id: Mapped[Number] = mapped_column(ForeignKey("bases.id"))
    revision: Mapped[str | None] = mapped_column(String(256))
    created_at: Mapped[CreatedAt]


class BaseTwin(Table):
    """`base` is a quantised, cast or renamed copy of `twin`."""

    __tablename__ = "base_twins"
    __table_args__ = (CheckConstraint("relation IN ('quantised', 'cast', 'renamed')", name="relation_known"),)

    base_id: Mapped[Number] = mapped_column(ForeignKey("bases.id"), primary_key=True)
    twin_id: Mapped[Number] = mapped_column(ForeignKey("bases.id"), primary_key=True)
    relation: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[CreatedAt]
