"""Tags and metrics of a version."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from sqlalchemy import delete

from registry.audit import note
from registry.database import insert_into
from registry.errors import UsageError
from registry.models import Adapter, Metric, Tag, Version

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sqlalchemy.orm import Session

_LONGEST_VALUE = 512
_LONGEST_MESSAGE = 4096
# Keys are typed, filtered by and printed in tables: no spaces, no "=", nothing that a shell or terminal acts on.
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@+-]{0,95}", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def check_texts(tags: Mapping[str, str], metrics: Mapping[str, float], message: str | None) -> None:
    """UsageError for labels or a message that cannot be stored: before anything is written."""
    check_tags(tags)
    check_metrics(metrics)
    if message is not None and len(message) > _LONGEST_MESSAGE:
        raise UsageError(f"message: {len(message)} characters, at most {_LONGEST_MESSAGE} are kept")


def check_tags(tags: Mapping[str, str]) -> None:
    """UsageError for a key or value that cannot be stored."""
    for key, value in tags.items():
        _check_key("tag", key)
        if len(value) > _LONGEST_VALUE:
            raise UsageError(f"tag {key}: the value has {len(value)} characters, at most {_LONGEST_VALUE} are kept")
        if _CONTROL.search(value):
            raise UsageError(f"tag {key}: the value {value[:80]!r} has control characters")


def check_metrics(metrics: Mapping[str, float]) -> None:
    """UsageError for a name that cannot be stored or a value that is not finite."""
    for name, value in metrics.items():
        _check_key("metric", name)
        if not math.isfinite(value):
            raise UsageError(f"metric {name}: expected a finite number, found {value}")


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


def _check_key(what: str, key: str) -> None:
    if not _KEY.fullmatch(key):
        raise UsageError(f"{what} {key[:120]!r}: expected 1 to 96 of letters, digits and . _ / : @ + -")


def _subject(session: Session, version: Version) -> str:
    adapter = session.get_one(Adapter, version.adapter_id)
    return f"{adapter.namespace}/{adapter.name}@{version.number}"
