"""The one MetaData with its naming convention, and the column kinds that recur."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    Integer,
    MetaData,
    String,
    Text,
    TypeDecorator,
    func,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.orm import DeclarativeBase, mapped_column

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


_SQLITE_TIME = sqlite.DATETIME(truncate_microseconds=True)  # type: ignore[no-untyped-call]  # untyped upstream


class UtcTime(TypeDecorator[datetime]):
    """A moment in UTC. SQLite keeps neither a zone nor fractions: its text then sorts and compares like the moment."""

    impl = DateTime(timezone=True).with_variant(_SQLITE_TIME, "sqlite")
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        moment = value.astimezone(UTC)  # a moment without a zone is the caller's local time
        return moment.replace(tzinfo=None) if dialect.name == "sqlite" else moment

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:  # noqa: ARG002 (the base class's signature)
        if value is None:
            return None
        moment: datetime = value
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


class Table(DeclarativeBase):
    """Base class of every table."""

    metadata = metadata


# SQLite only numbers rows by itself in a column declared exactly INTEGER PRIMARY KEY.
Identity = Annotated[int, mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)]
Number = Annotated[int, mapped_column(BigInteger().with_variant(Integer, "sqlite"))]
# Byte order on both databases: lists come in one order everywhere, and a literal prefix is a range of the index.
Name = Annotated[str, mapped_column(String(96).with_variant(String(96, collation="C"), "postgresql"))]
Digest = Annotated[str, mapped_column(String(71))]
LongText = Annotated[str, mapped_column(Text)]
# The database's clock: clients disagree about the time.
CreatedAt = Annotated[datetime, mapped_column(UtcTime, server_default=func.current_timestamp())]


def digest_check(column: str) -> CheckConstraint:
    """A digest column holds `sha256:` + 64 characters or nothing else."""
    return CheckConstraint(f"{column} LIKE 'sha256:%' AND length({column}) = 71", name=f"{column}_format")
