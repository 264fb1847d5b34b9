"""Aliases: moved by compare-and-set, with a history that can be rolled back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from sqlalchemy import func, select

from registry.catalog.audit import note
from registry.errors import ConflictError, NotFoundError
from registry.models import Adapter, Alias, AliasMove, Version
from registry.results import AliasInfo
from registry.versions.resolve import find_adapter, resolve

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from registry.values.refs import Name, Ref

Action = Literal["set", "rm", "rollback"]


def set_alias(
    session: Session, ref: Ref, alias: str, *, actor: str | None, expect: Ref | Literal["none"] | None = None
) -> AliasInfo:
    """Point an alias at a version. With `expect`, only where it points there now ("none": where it does not exist)."""
    adapter = lock_adapter(session, find_adapter(session, ref.name))
    target = resolve(session, ref)
    before = _current(session, adapter.id, alias)
    if expect is not None:
        _compare(session, adapter, alias, before, expect)
    move(session, adapter, alias, target, actor=actor, action="set")
    return _info(adapter, alias, target.number, None if before is None else before.number)


def remove_alias(session: Session, name: Name, alias: str, *, actor: str | None) -> AliasInfo:
    """Take an alias away; its history stays."""
    adapter = lock_adapter(session, find_adapter(session, name))
    before = _current(session, adapter.id, alias)
    if before is None:
        raise _no_alias(session, adapter, name, alias)
    move(session, adapter, alias, None, actor=actor, action="rm")
    return _info(adapter, alias, None, before.number)


def rollback_alias(session: Session, name: Name, alias: str, *, actor: str | None) -> AliasInfo:
    """Undo the newest move that is not undone yet; doing it again goes one further back.

    ConflictError where there is nothing before, or where the version there is deleted.
    """
    adapter = lock_adapter(session, find_adapter(session, name))
    moves = _history(session, adapter.id, alias)
    if not moves:
        raise _no_alias(session, adapter, name, alias)
    standing = _standing(moves)
    if not standing or standing[-1].from_version_id is None:
        raise ConflictError(f"alias {alias} of {name}: nothing to roll back to, its history ends here")
    target = session.get_one(Version, standing[-1].from_version_id)
    if target.deleted_at is not None:
        raise ConflictError(
            f"alias {alias} of {name}: version {target.number} before it is deleted",
            hint=f"adapters undelete {name}@{target.number}",
        )
    before = _current(session, adapter.id, alias)
    move(session, adapter, alias, target, actor=actor, action="rollback")
    return _info(adapter, alias, target.number, None if before is None else before.number)


def list_aliases(session: Session, name: Name) -> tuple[AliasInfo, ...]:
    """The aliases of an adapter by name, each with the version it named before its last move."""
    adapter = find_adapter(session, name)
    rows = session.execute(
        select(Alias.name, Version.number)
        .join(Version, Version.id == Alias.version_id)
        .where(Alias.adapter_id == adapter.id)
        .order_by(Alias.name)
    ).all()
    return tuple(_info(adapter, alias, number, _previous(session, adapter.id, alias)) for alias, number in rows)


def move(
    session: Session, adapter: Adapter, alias: str, target: Version | None, *, actor: str | None, action: Action
) -> None:
    """Point a locked adapter's alias somewhere (None: nowhere) and remember it. A move to where it is does nothing."""
    row = session.get(Alias, (adapter.id, alias))
    before = None if row is None else row.version_id
    after = None if target is None else target.id
    if before == after:
        return
    if row is not None and target is not None:
        row.version_id, row.moved_at = target.id, func.current_timestamp()
    elif row is not None:
        session.delete(row)
    elif target is not None:
        session.add(Alias(adapter_id=adapter.id, name=alias, version_id=target.id, moved_at=func.current_timestamp()))
    history = AliasMove(adapter_id=adapter.id, name=alias, action=action, actor=actor)
    history.from_version_id, history.to_version_id = before, after
    session.add(history)
    subject = f"{adapter.namespace}/{adapter.name}"
    note(session, f"alias {action}", subject, actor=actor, alias=alias, to=None if target is None else target.number)
    session.flush()


def lock_adapter(session: Session, adapter: Adapter) -> Adapter:
    """Let nobody else change this adapter's versions and aliases before the transaction ends."""
    session.refresh(adapter, with_for_update=True)
    return adapter


def _compare(
    session: Session, adapter: Adapter, alias: str, found: Version | None, expect: Ref | Literal["none"]
) -> None:
    wanted = None if expect == "none" else resolve(session, expect, deleted=True)
    if (None if wanted is None else wanted.id) == (None if found is None else found.id):
        return
    words = ["nothing" if one is None else f"version {one.number}" for one in (wanted, found)]
    if wanted is not None and wanted.adapter_id != adapter.id:
        words[0] = str(expect)
    raise ConflictError(
        f"alias {alias} of {adapter.namespace}/{adapter.name}: expected {words[0]}, found {words[1]}",
        hint=f"adapters alias list {adapter.namespace}/{adapter.name}",
    )


def _current(session: Session, adapter_id: int, alias: str) -> Version | None:
    row = session.get(Alias, (adapter_id, alias))
    return None if row is None else session.get_one(Version, row.version_id)


def _history(session: Session, adapter_id: int, alias: str) -> list[AliasMove]:
    query = select(AliasMove).where(AliasMove.adapter_id == adapter_id, AliasMove.name == alias)
    return list(session.scalars(query.order_by(AliasMove.id)))


def _standing(moves: list[AliasMove]) -> list[AliasMove]:
    """The moves that still count: each rollback took back the newest one before it."""
    standing: list[AliasMove] = []
    for one in moves:
        if one.action == "rollback":
            standing.pop()
        else:
            standing.append(one)
    return standing


def _previous(session: Session, adapter_id: int, alias: str) -> int | None:
    last = (
        select(AliasMove.from_version_id)
        .where(AliasMove.adapter_id == adapter_id, AliasMove.name == alias)
        .order_by(AliasMove.id.desc())
        .limit(1)
    )
    return session.scalar(select(Version.number).where(Version.id == last.scalar_subquery()))


def _info(adapter: Adapter, alias: str, number: int | None, previous: int | None) -> AliasInfo:
    ref = None if number is None else f"{adapter.namespace}/{adapter.name}@{number}"
    return AliasInfo(alias=alias, ref=ref, version=number, previous=previous)


def _no_alias(session: Session, adapter: Adapter, name: Name, alias: str) -> NotFoundError:
    names = session.scalars(select(Alias.name).where(Alias.adapter_id == adapter.id).order_by(Alias.name).limit(8))
    known = ", ".join(names)
    return NotFoundError(
        f"alias {alias} of {name}: there is none; " + (f"aliases: {known}" if known else "it has none")
    )
