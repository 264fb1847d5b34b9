"""Blobs the catalog knows, and the leases that protect blobs a push is still writing."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from registry.models.metadata import CreatedAt, Digest, Number, Table, UtcTime, digest_check


class Blob(Table):
    """Bytes under a digest. `condemned` is marked for collection and can still be brought back; `deleting` cannot.

    `deleting` belongs to the gc run `deleting_by`, until the moment `deleting_until`; then another may take it over.
    """

    __tablename__ = "blobs"
    __table_args__ = (
        digest_check("digest"),
        CheckConstraint("size >= 0", name="size_not_negative"),
        CheckConstraint("state IN ('live', 'condemned', 'deleting')", name="state_known"),
        Index("ix_blobs_state", "state", "condemned_at"),
    )

    digest: Mapped[Digest] = mapped_column(primary_key=True)
    size: Mapped[Number]
    state: Mapped[str] = mapped_column(String(16), server_default="live")
    condemned_at: Mapped[datetime | None] = mapped_column(UtcTime)
    verified_at: Mapped[datetime | None] = mapped_column(UtcTime, comment="when its bytes were last re-hashed")
    created_at: Mapped[CreatedAt]
    deleting_by: Mapped[str | None] = mapped_column(String(256))
    deleting_until: Mapped[datetime | None] = mapped_column(UtcTime)


class Lease(Table):
    """A push in progress: until it expires, gc spares the digests it names."""

    __tablename__ = "leases"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    owner: Mapped[str | None] = mapped_column(String(256))
    created_at: Mapped[CreatedAt]
    expires_at: Mapped[datetime] = mapped_column(UtcTime, index=True)


class LeaseBlob(Table):
    """A digest that a lease protects, whether or not a blob row exists yet."""

    __tablename__ = "lease_blobs"
    __table_args__ = (digest_check("digest"), Index("ix_lease_blobs_digest", "digest"))

    lease_id: Mapped[str] = mapped_column(ForeignKey("leases.id", ondelete="CASCADE"), primary_key=True)
    digest: Mapped[Digest] = mapped_column(primary_key=True)
