"""Removing a version and taking that back. Rows stay: the number, the digest and the lineage are kept for ever."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import func, select

from registry.catalog.audit import note
from registry.catalog.newest import mark_newest
from registry.errors import ConflictError, NotFoundError
from registry.models import Alias, Version
from registry.versions.aliases import lock_adapter
from registry.versions.resolve import find_adapter, resolve

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from registry.values.refs import Ref


def remove(session: Session, ref: Ref, *, actor: str | None) -> Version:
    """Mark a version deleted. ConflictError while an alias points there; a deleted one is not found."""
    adapter = lock_adapter(session, find_adapter(session, ref.name))
    version = resolve(session, ref)
    aliases = session.scalars(select(Alias.name).where(Alias.version_id == version.id).order_by(Alias.name)).all()
    if aliases:
        raise ConflictError(
            f"{ref.name}@{version.number}: alias {', '.join(aliases)} points here",
            hint=f"adapters alias rm {ref.name} {aliases[0]}",
        )
    version.deleted_at = func.current_timestamp()
    version.newest = False
    session.flush()
    mark_newest(session, adapter.id)
    note(session, "rm", f"{ref.name}@{version.number}", actor=actor)
    session.refresh(version)
    return version


def undelete(session: Session, ref: Ref, *, actor: str | None) -> Version:
    """Take a deletion back; a version that is not deleted stays as it is. NotFoundError once gc freed its files."""
    adapter = lock_adapter(session, find_adapter(session, ref.name))
    version = resolve(session, ref, deleted=True)
    session.refresh(version, with_for_update=True)  # gc frees under the same lock
    if version.freed_at is not None:
        raise NotFoundError(
            f"{ref.name}@{version.number}: gc freed its files; push the same content again to bring it back"
        )
    if version.deleted_at is not None:
        version.deleted_at = None
        session.flush()
        mark_newest(session, adapter.id)
        note(session, "undelete", f"{ref.name}@{version.number}", actor=actor)
        session.refresh(version)
    return version
