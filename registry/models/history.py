"""The audit log, and what a client must know before it touches this catalog."""

from __future__ import annotations

from sqlalchemy import Index, String
from sqlalchemy.orm import Mapped, mapped_column

from registry.models.metadata import CreatedAt, Identity, LongText, Table


class AuditEntry(Table):
    """One acknowledged change, written in the transaction that made it."""

    __tablename__ = "audit_log"
    __table_args__ = (Index("ix_audit_log_subject", "subject"),)

    id: Mapped[Identity]
    action: Mapped[str] = mapped_column(String(32))
    subject: Mapped[str] = mapped_column(String(512))
    actor: Mapped[str | None] = mapped_column(String(256))
    detail: Mapped[LongText]
    created_at: Mapped[CreatedAt]


class CatalogMeta(Table):
    """One row per fact about the catalog itself.

    `schema` is the ordinal of the newest migration applied, `oldest_client` the lowest schema ordinal that a client
    may have been built for and still work: an additive migration leaves it, a contracting one raises it.
    """

    __tablename__ = "catalog_meta"

    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str] = mapped_column(String(1024))
