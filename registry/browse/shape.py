"""What a `list` asks, taken apart: its shape, which decides the text of its statements, and the values for that text.

Making a statement takes longer than running it, so each is made once per shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, func, select
from sqlalchemy.orm import aliased

from registry.basemodels import bases
from registry.models import BaseName
from registry.origins.provenance import NO_LICENCE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement, Select
    from sqlalchemy.orm import Session

    from registry.browse.cursor import KeyValue
    from registry.browse.filters import Bounds, ListQuery, Span

    Values = dict[str, Any]

_INSTANT = timedelta(microseconds=1)
_LATER = aliased(BaseName)
_MEANT_LATER = select(_LATER.id).where(_LATER.name == BaseName.name, _LATER.id > BaseName.id).exists()
_NOW = select(func.current_timestamp())


def _names_of(base_id: ColumnElement[int]) -> Select[int, str]:
    """All that mean a base today."""
    return select(BaseName.base_id, BaseName.name).where(BaseName.base_id == base_id, ~_MEANT_LATER)


_SPELLINGS = _names_of(bindparam("base_id"))
_SYNONYMS = _names_of(bases.MEANING.correlate(None).scalar_subquery())


@dataclass(frozen=True, slots=True)
class Shape:
    """Equal for all queries of a dialect that differ in values alone: `given` are the names of their parameters."""

    dialect: str
    given: frozenset[str]
    sort: str
    descending: bool
    all_versions: bool

    def count(self, prefix: str) -> int:
        """How many numbered parameters of a kind there are."""
        return sum(name.startswith(prefix) for name in self.given)


def take_apart(session: Session, query: ListQuery, after: Sequence[KeyValue] | None) -> tuple[Shape, Values]:
    """The shape of a page that starts after a sort key, and its values by parameter.

    Asks the database for the names of a base and for its clock where they matter.
    """
    sort, _, metric = query.sort.partition(":")
    values: Values = {"peft_type": query.peft_type, "alias": query.alias, "limit": query.limit or None}
    values |= {"sort_metric": metric or None, **_ends("rank", query.rank), **_ends("size", query.size)}
    values |= {} if query.name is None else _name(query.name)
    values |= {} if query.base is None else _base(session, query.base)
    values |= {} if query.created is None else _created(session, query.created)
    for n, (key, value) in enumerate(query.tags):
        values |= {f"tag_key_{n}": key, f"tag_value_{n}": value}
    for n, (name, bounds) in enumerate(query.metrics):
        values |= {f"metric_name_{n}": name, **_ends(f"metric_{n}", bounds)}
    values |= _origin(query)
    values |= {} if query.check is None else dict(zip(("check_target", "check_status"), query.check, strict=True))
    values |= {f"after_{n}": value for n, value in enumerate(after or ())}
    values = {name: value for name, value in values.items() if value is not None}
    dialect = session.get_bind().dialect.name
    return Shape(dialect, frozenset(values), sort, query.descending, query.all_versions), values


def _ends(name: str, bounds: Bounds | None) -> Values:
    return {} if bounds is None else {f"{name}_low": bounds.low, f"{name}_high": bounds.high}


def _origin(query: ListQuery) -> Values:
    """Equality, but a commit by its beginning: `g` comes after every hexadecimal digit."""
    values: Values = {"run_id": query.run_id, "data_digest": query.data_digest, "pushed_by": query.pushed_by}
    if query.git_commit is not None:
        values |= {"git_commit_low": query.git_commit, "git_commit_below": query.git_commit + "g"}
    if query.licence is not None:
        values |= {"licence_none": True} if query.licence == NO_LICENCE else {"licence": query.licence}
    return values


def _name(glob: str) -> Values:
    namespace, slash, name = glob.rpartition("/")
    return {**(_pattern("namespace", namespace) if slash else {}), **_pattern("name", name)}


def _pattern(column: str, glob: str) -> Values:
    """Equality, or a range over the literal prefix, which an index serves, and LIKE for what follows it."""
    prefix = glob[: min((glob.index(wildcard) for wildcard in "*?" if wildcard in glob), default=len(glob))]
    if prefix == glob:
        return {f"{column}_is": glob}
    values: Values = {}
    if prefix:
        values |= {f"{column}_low": prefix, f"{column}_below": prefix[:-1] + chr(ord(prefix[-1]) + 1)}
    if glob != prefix + "*":
        values[f"{column}_like"] = glob.replace("_", r"\_").replace("*", "%").replace("?", "_")
    return values


def _base(session: Session, wanted: str) -> Values:
    """A version fits by its known base, or by an equal spelling where its base is unknown."""
    names = session.connection().execute(_SYNONYMS, {"name": wanted}).all()
    base_id = names[0].base_id if names else bases.find_id(session, wanted)
    if base_id is None:
        return {"spellings": [wanted]}
    names = names or session.connection().execute(_SPELLINGS, {"base_id": base_id}).all()
    return {"base_id": base_id, "spellings": sorted({wanted, *(row.name for row in names)})}


def _created(session: Session, span: Span) -> Values:
    """SQLite keeps moments as text, with or without a fraction, so an end is compared a microsecond beside a second."""
    low, high = (_moment(session, end) for end in (span.low, span.high))
    return {"created_above": None if low is None else low - _INSTANT, "created_high": high}


def _moment(session: Session, end: datetime | timedelta | None) -> datetime | None:
    if not isinstance(end, timedelta):
        return end
    now = session.connection().execute(_NOW).scalar_one()
    moment = now if isinstance(now, datetime) else datetime.fromisoformat(str(now))
    try:
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC) - end
    except OverflowError:
        return datetime.min.replace(tzinfo=UTC) + _INSTANT
