"""Which version of an adapter is its newest: the highest number that is not deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import func, select, text, update

from registry.models import Version

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, TextClause
    from sqlalchemy.orm import Session


# The bare column: a Boolean compiles to `newest = 1` on SQLite, for which it would not use the partial indexes.
IS_NEWEST = text("versions.newest")


def mark_newest(session: Session, adapter_id: int) -> int | None:
    """Move the `newest` flag to where it belongs; the number there, None where every version is deleted."""
    highest = session.scalar(
        select(func.max(Version.number)).where(Version.adapter_id == adapter_id, Version.deleted_at.is_(None))
    )
    _flag(session, adapter_id, IS_NEWEST, Version.number != (highest or 0), newest=False)
    if highest is not None:
        _flag(session, adapter_id, Version.number == highest, newest=True)
    return highest


def _flag(session: Session, adapter_id: int, *where: ColumnElement[bool] | TextClause, newest: bool) -> None:
    statement = update(Version).where(Version.adapter_id == adapter_id, *where).values(newest=newest)
    session.execute(statement.execution_options(synchronize_session="fetch"))
