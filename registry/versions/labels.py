"""Tags and metrics of a version."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import delete

from registry.catalog.audit import note
from registry.catalog.database import insert_into
from registry.models import Adapter, Metric, Tag, Version
from registry.values.labeltexts import check_metrics, check_tags

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sqlalchemy.orm import Session


def set_tags(session: Session, version: Version, tags: Mapping[str, str], *, actor: str | None) -> None:
    """Add tags; one that is there gets the new value."""
    check_tags(tags)
    if tags:
        put_tags(session, version.id, tags)
        note(session, "tag", _subject(session, version), actor=actor, set=dict(tags))


def remove_tags(session: Session, version: Version, keys: Iterable[str], *, actor: str | None) -> tuple[str, ...]:
    """Remove tags; the keys that were there. A key that is not there is no error."""
    wanted = sorted(set(keys))
    gone = session.scalars(
        delete(Tag).where(Tag.version_id == version.id, Tag.key.in_(wanted)).returning(Tag.key)
    ).all()
    if gone:
        note(session, "tag", _subject(session, version), actor=actor, removed=sorted(gone))
    return tuple(sorted(gone))


def set_metrics(session: Session, version: Version, metrics: Mapping[str, float], *, actor: str | None) -> None:
    """Add metrics; one that is there gets the new value."""
    check_metrics(metrics)
    if metrics:
        put_metrics(session, version.id, metrics)
        note(session, "metric", _subject(session, version), actor=actor, set=dict(metrics))


def put_tags(session: Session, version_id: int, tags: Mapping[str, str]) -> None:
    """The rows alone, already checked."""
    for key, value in sorted(tags.items()):
        row = insert_into(session, Tag).values(version_id=version_id, key=key, value=value)
        session.execute(row.on_conflict_do_update(index_elements=["version_id", "key"], set_={"value": value}))


def put_metrics(session: Session, version_id: int, metrics: Mapping[str, float]) -> None:
    """The rows alone, already checked."""
    for name, value in sorted(metrics.items()):
        row = insert_into(session, Metric).values(version_id=version_id, name=name, value=float(value))
        session.execute(row.on_conflict_do_update(index_elements=["version_id", "name"], set_={"value": float(value)}))


def _subject(session: Session, version: Version) -> str:
    adapter = session.get_one(Adapter, version.adapter_id)
    return f"{adapter.namespace}/{adapter.name}@{version.number}"
