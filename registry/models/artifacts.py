"""Recipes, what was made from them, and what checks said."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from registry.models.metadata import CreatedAt, Digest, Identity, LongText, Number, Table, UtcTime, digest_check


class Recipe(Table):
    """Everything that determines a derived version, as canonical JSON under its own digest."""

    __tablename__ = "recipes"
    __table_args__ = (UniqueConstraint("digest"), digest_check("digest"))

    id: Mapped[Identity]
    digest: Mapped[Digest]
    method: Mapped[str] = mapped_column(String(64))
    body: Mapped[LongText]
    created_at: Mapped[CreatedAt]


class Artifact(Table):
    """A materialised result of a recipe: where it lies and what it holds.

    `lease_id` is the lease, without end, that keeps its tensors in the store; null where they are not kept there.
    """

    __tablename__ = "artifacts"
    __table_args__ = (
        Index("ix_artifacts_recipe_id", "recipe_id", unique=True),
        Index("ix_artifacts_lease_id", "lease_id"),
        digest_check("digest"),
    )

    id: Mapped[Identity]
    recipe_id: Mapped[Number] = mapped_column(ForeignKey("recipes.id"))
    kind: Mapped[str] = mapped_column(String(32))
    digest: Mapped[Digest]
    size: Mapped[Number]
    places: Mapped[LongText] = mapped_column(comment="JSON list of known paths")
    body: Mapped[LongText] = mapped_column(comment="JSON: per-tensor digests and report")
    created_at: Mapped[CreatedAt]
    removed_at: Mapped[datetime | None] = mapped_column(UtcTime)
    actor: Mapped[str | None] = mapped_column(String(256))
    lease_id: Mapped[str | None] = mapped_column(String(32))


class CheckResult(Table):
    """What the rules said about a version for one target (`checkin`, an engine, …)."""

    __tablename__ = "check_results"
    __table_args__ = (
        UniqueConstraint("version_id", "target", "ruleset"),
        Index("ix_check_results_target_status", "target", "status", "version_id"),
        CheckConstraint("status IN ('pass', 'warn', 'inconclusive', 'fail')", name="status_known"),
    )

    id: Mapped[Identity]
    version_id: Mapped[Number] = mapped_column(ForeignKey("versions.id"))
    target: Mapped[str] = mapped_column(String(128))
    ruleset: Mapped[str] = mapped_column(String(71), comment="digest or version of the rules that ran")
    status: Mapped[str] = mapped_column(String(16))
    findings: Mapped[LongText] = mapped_column(comment="JSON list")
    created_at: Mapped[CreatedAt]
