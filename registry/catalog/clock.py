"""The database's clock: clients disagree about the time, so nobody else is asked."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from registry.models.metadata import UtcTime

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


def now(session: Session) -> datetime:
    """Now, in UTC. On SQLite it has whole seconds."""
    moment = session.scalar(select(func.current_timestamp(type_=UtcTime())))
    assert isinstance(moment, datetime)
    return moment


def later(session: Session, span: timedelta) -> datetime:
    """The moment `span` from now."""
    return now(session) + span
