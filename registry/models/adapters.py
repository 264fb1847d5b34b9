"""Adapters and their aliases."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from registry.models.metadata import CreatedAt, Identity, Name, Number, Table, UtcTime


class Adapter(Table):
    """A named thing. `last_number` only grows, so that a version number is never given twice."""

    __tablename__ = "adapters"
    __table_args__ = (
        UniqueConstraint("namespace", "name"),
        Index("ix_adapters_name", "name"),
        CheckConstraint("last_number >= 0", name="last_number_not_negative"),
    )

    id: Mapped[Identity]
    namespace: Mapped[Name]
    name: Mapped[Name]
    last_number: Mapped[Number] = mapped_column(server_default="0")
    created_at: Mapped[CreatedAt]


class Alias(Table):
    """A movable name for a version of the same adapter."""

    __tablename__ = "aliases"
    __table_args__ = (Index("ix_aliases_version_id", "version_id"), Index("ix_aliases_name", "name"))

    adapter_id: Mapped[Number] = mapped_column(ForeignKey("adapters.id"), primary_key=True)
    name: Mapped[Name] = mapped_column(primary_key=True)
    version_id: Mapped[Number] = mapped_column(ForeignKey("versions.id"))
    moved_at: Mapped[datetime] = mapped_column(UtcTime)


class AliasMove(Table):
    """One move of an alias, kept for ever; `to` is null when it was removed, `from` when it was new."""

    __tablename__ = "alias_moves"
    __table_args__ = (
        Index("ix_alias_moves_adapter_id_name", "adapter_id", "name", "id"),
        CheckConstraint("action IN ('set', 'rm', 'rollback')", name="action_known"),
    )

    id: Mapped[Identity]
    adapter_id: Mapped[Number] = mapped_column(ForeignKey("adapters.id"))
    name: Mapped[Name]
    action: Mapped[str] = mapped_column(String(16))
    from_version_id: Mapped[Number | None] = mapped_column(ForeignKey("versions.id"))
    to_version_id: Mapped[Number | None] = mapped_column(ForeignKey("versions.id"))
    actor: Mapped[str | None] = mapped_column(String(256))
    moved_at: Mapped[CreatedAt]
