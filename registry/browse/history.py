"""`log`: the versions of an adapter and the moves of its aliases, in the order they happened."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.orm import aliased

from registry.browse.listing import ORIGIN
from registry.errors import NotFoundError
from registry.models import Adapter, AliasMove, Version
from registry.results import LogEntry

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.orm import Session

    from registry.values.refs import Name


def log(session: Session, name: Name) -> tuple[LogEntry, ...]:
    """Oldest first; NotFoundError where there is no such adapter.

    Pushes stay in order of number and moves in order of their ids, whatever the clock did; the clock only weaves the
    two together, and a push comes before the moves that speak of it. A version that is deleted today ends with `rm`.
    """
    adapter = select(Adapter.id).where(Adapter.namespace == name.namespace, Adapter.name == name.name)
    adapter_id = session.scalar(adapter)
    if adapter_id is None:
        raise NotFoundError(f"{name}: no such adapter", hint="adapters list")
    pushes, removals = _versions(session, adapter_id, name)
    return tuple(_weave(_weave(pushes, _moves(session, adapter_id, name)), removals))


def _versions(session: Session, adapter_id: int, name: Name) -> tuple[list[LogEntry], list[LogEntry]]:
    rows = session.execute(
        select(Version.number, Version.message, Version.created_at, Version.deleted_at, *ORIGIN.values())
        .where(Version.adapter_id == adapter_id)
        .order_by(Version.number)
    ).all()
    pushes = [replace(_of_version(name, row.number, "push", row.created_at), **_told(row)) for row in rows]
    gone = sorted((row.deleted_at, row.number) for row in rows if row.deleted_at is not None)
    return pushes, [_of_version(name, number, "rm", at) for at, number in gone]


def _told(row: Any) -> dict[str, Any]:
    origin = {field: getattr(row, field) for field in ORIGIN}
    return {"actor": origin.pop("pushed_by"), "message": row.message, **origin}


def _of_version(name: Name, number: int, action: str, at: datetime) -> LogEntry:
    return LogEntry(
        kind="version",
        ref=f"{name}@{number}",
        version=number,
        alias=None,
        action=action,
        from_version=None,
        actor=None,
        message=None,
        at=at,
    )


def _moves(session: Session, adapter_id: int, name: Name) -> list[LogEntry]:
    before, after = aliased(Version), aliased(Version)
    rows = session.execute(
        select(
            AliasMove.name,
            AliasMove.action,
            AliasMove.actor,
            AliasMove.moved_at,
            before.number.label("before"),
            after.number.label("after"),
        )
        .outerjoin(before, before.id == AliasMove.from_version_id)
        .outerjoin(after, after.id == AliasMove.to_version_id)
        .where(AliasMove.adapter_id == adapter_id)
        .order_by(AliasMove.id)
    )
    return [
        LogEntry(
            kind="alias",
            ref=None if row.after is None else f"{name}@{row.after}",
            version=row.after,
            alias=row.name,
            action=row.action,
            from_version=row.before,
            actor=row.actor,
            message=None,
            at=row.moved_at,
        )
        for row in rows
    ]


def _weave(first: list[LogEntry], second: list[LogEntry]) -> list[LogEntry]:
    """Two histories as one, each in its own order; `first` goes ahead at equal times and where it is the cause."""
    spoken: dict[int | None, int] = {
        version: n for n, one in enumerate(first) for version in (one.version, one.from_version)
    }
    spoken[None] = -1
    woven: list[LogEntry] = []
    done = 0
    for entry in second:
        cause = max(spoken.get(number, -1) for number in (entry.version, entry.from_version))
        while done < len(first) and (done <= cause or first[done].at <= entry.at):
            woven.append(first[done])
            done += 1
        woven.append(entry)
    return [*woven, *first[done:]]
