"""Versions by row id as `list` shows them, for verbs that change or find some."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select

from registry.browse.listing import ORIGIN, base_label, labels_of
from registry.models import Adapter, Version
from registry.results import VersionInfo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.orm import Session

_FACTS = (
    Version.id,
    Version.number,
    Version.digest,
    Version.peft_type,
    Version.rank,
    Version.size,
    Version.created_at,
    Version.deleted_at,
    Adapter.namespace,
    Adapter.name,
    *ORIGIN.values(),
)


def summaries(session: Session, ids: Sequence[int]) -> tuple[VersionInfo, ...]:
    """One value per id, in the order of `ids`; deleted versions too."""
    query = select(*_FACTS, base_label().label("base")).join(Adapter, Adapter.id == Version.adapter_id)
    rows = {row.id: row for row in session.execute(query.where(Version.id.in_(ids)))}
    labels = labels_of(session, ids)
    return tuple(
        VersionInfo(
            ref=f"{row.namespace}/{row.name}@{row.number}",
            name=f"{row.namespace}/{row.name}",
            version=row.number,
            digest=row.digest,
            base=row.base,
            peft_type=row.peft_type,
            rank=row.rank,
            size=row.size,
            aliases=labels.aliases.get(row.id, ()),
            tags=labels.tags.get(row.id, {}),
            metrics=labels.metrics.get(row.id, {}),
            created_at=row.created_at,
            deleted=row.deleted_at is not None,
            **{name: getattr(row, name) for name in ORIGIN},
        )
        for row in (rows[version_id] for version_id in ids)
    )
