"""The filters of `list` as SQL: what must hold of a version, and which versions could be meant."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, CompoundSelect, Select, and_, func, or_, select, text, true, union_all

from registry.bases import find
from registry.filters import Bounds
from registry.models import Adapter, Alias, BaseName, CheckResult, Metric, Tag, Version

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.orm import Session

    from registry.filters import ListQuery, Span

    Ids = Select[*tuple[Any, ...]] | CompoundSelect[*tuple[Any, ...]]

# SQLite uses a partial index only where the query repeats its condition word for word; `newest = 1` would not do.
NEWEST = text("versions.newest")
_INSTANT = timedelta(microseconds=1)


# What a filter may ask of a version's row, wherever the row comes from.
FACTS = (
    Version.id,
    Version.adapter_id,
    Version.number,
    Version.newest,
    Version.deleted_at,
    Version.peft_type,
    Version.rank,
    Version.size,
    Version.base_id,
    Version.base_name,
    Version.created_at,
)


@dataclass(frozen=True, slots=True)
class Condition:
    """One filter. `holds` makes the term over a source of FACTS: the table, an alias of it, a CTE's columns. What lies
    in other tables it looks up by primary key in a scalar subquery, which neither database turns into a join.
    `candidates` selects, through an index, the ids of all versions that could pass, or the FACTS where `whole`.
    """

    holds: Callable[[Any], ColumnElement[bool]] | None = None
    candidates: Ids | None = None
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Conditions:
    """All filters of a query: `adapter` terms speak of `adapters`, the others of versions."""

    adapter: tuple[ColumnElement[bool], ...]
    version: tuple[Condition, ...]

    def probes(self, row: Any) -> list[ColumnElement[bool]]:
        """What must hold of a version's row."""
        return [condition.holds(row) for condition in self.version if condition.holds is not None]

    @property
    def drivers(self) -> list[Condition]:
        """The conditions that could drive the query."""
        return [condition for condition in self.version if condition.candidates is not None]


def conditions_of(session: Session, query: ListQuery) -> Conditions:
    """The query's filters; asks the database for the names of a base and for its clock where they matter."""
    scope = Version.deleted_at.is_(None) if query.all_versions else NEWEST
    adapter = () if query.name is None else _name_terms(query.name)
    found = [_facts(query), _base_and_rank(session, query, scope)]
    if adapter:
        found.append(Condition(candidates=_named(adapter, scope)))
    if query.created is not None:
        found.append(_created(session, query.created))
    found += [_tag(key, value) for key, value in query.tags]
    found += [_metric(name, bounds) for name, bounds in query.metrics]
    if query.alias is not None:
        found.append(_alias(query.alias))
    if query.check is not None:
        found.append(_check(*query.check))
    if query.sort.startswith("metric:"):
        found.append(_metric(query.sort.removeprefix("metric:"), Bounds()))
    return Conditions(adapter, tuple(found))


def metric_of(version_id: ColumnElement[int], name: str) -> ColumnElement[float]:
    """The value of a metric of a version, null where it has none."""
    return select(Metric.value).where(Metric.version_id == version_id, Metric.name == name).scalar_subquery()


def _facts(query: ListQuery) -> Condition:
    def holds(row: Any) -> ColumnElement[bool]:
        typed = () if query.peft_type is None else (row.peft_type == query.peft_type,)
        return and_(true(), *_between(row.size, query.size), *typed)

    return Condition(holds if query.size or query.peft_type is not None else None)


def _base_and_rank(session: Session, query: ListQuery, scope: Any) -> Condition:
    """Together, because one index holds both."""
    arms = [lambda _: true()] if query.base is None else _base_arms(session, query.base)
    if query.base is None and not query.rank:
        return Condition()

    def holds(row: Any) -> ColumnElement[bool]:
        return and_(or_(*[arm(row) for arm in arms]), *_between(row.rank, query.rank))

    if query.base is None and query.all_versions:
        return Condition(holds)
    wanted = [select(*FACTS).where(scope, arm(Version), *_between(Version.rank, query.rank)) for arm in arms]
    return Condition(holds, union_all(*wanted) if len(wanted) > 1 else wanted[0], whole=True)


def _base_arms(session: Session, wanted: str) -> list[Callable[[Any], ColumnElement[bool]]]:
    """A version fits by its known base, or by an equal spelling where its base is unknown."""
    base = find(session, wanted)
    if base is None:
        return [lambda row: and_(row.base_id.is_(None), row.base_name == wanted)]
    base_id = base.id
    today = select(func.max(BaseName.id)).group_by(BaseName.name)  # a name may have meant another base before
    names = session.scalars(select(BaseName.name).where(BaseName.base_id == base_id, BaseName.id.in_(today)))
    spellings = sorted({wanted, *names})
    return [
        lambda row: row.base_id == base_id,
        lambda row: and_(row.base_id.is_(None), row.base_name.in_(spellings)),
    ]


def _created(session: Session, span: Span) -> Condition:
    """SQLite keeps moments as text, with or without a fraction, so an end is compared a microsecond beside a second."""
    low, high = (_moment(session, end) for end in (span.low, span.high))

    def holds(row: Any) -> ColumnElement[bool]:
        after = () if low is None else (row.created_at > low - _INSTANT,)
        return and_(true(), *after, *(() if high is None else (row.created_at <= high,)))

    return Condition(holds, select(Version.id).where(holds(Version)))


def _moment(session: Session, end: datetime | timedelta | None) -> datetime | None:
    if not isinstance(end, timedelta):
        return end
    now = session.scalar(select(func.current_timestamp()))
    moment = now if isinstance(now, datetime) else datetime.fromisoformat(str(now))
    try:
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC) - end
    except OverflowError:
        return datetime.min.replace(tzinfo=UTC) + _INSTANT


def _tag(key: str, value: str) -> Condition:
    def holds(row: Any) -> ColumnElement[bool]:
        carried = select(Tag.value).where(Tag.version_id == row.id, Tag.key == key)
        return carried.scalar_subquery() == value

    return Condition(holds, select(Tag.version_id).where(Tag.key == key, Tag.value == value))


def _metric(name: str, bounds: Bounds) -> Condition:
    terms = (Metric.name == name, *_between(Metric.value, bounds))

    def holds(row: Any) -> ColumnElement[bool]:
        return select(Metric.value).where(Metric.version_id == row.id, *terms).scalar_subquery().is_not(None)

    return Condition(holds, select(Metric.version_id).where(*terms))


def _alias(alias: str) -> Condition:
    def holds(row: Any) -> ColumnElement[bool]:
        target = select(Alias.version_id).where(Alias.adapter_id == row.adapter_id, Alias.name == alias)
        points_here: ColumnElement[bool] = row.id == target.scalar_subquery()
        return points_here

    return Condition(holds, select(Alias.version_id).where(Alias.name == alias))


def _check(target: str, status: str) -> Condition:
    """The newest word of the rules on a target counts, so an older result alone does not pass."""

    def holds(row: Any) -> ColumnElement[bool]:
        results = select(CheckResult.status).where(CheckResult.version_id == row.id, CheckResult.target == target)
        return results.order_by(CheckResult.id.desc()).limit(1).scalar_subquery() == status

    known = select(CheckResult.version_id).where(CheckResult.target == target, CheckResult.status == status)
    return Condition(holds, known.distinct())


def _name_terms(glob: str) -> tuple[ColumnElement[bool], ...]:
    namespace, slash, name = glob.rpartition("/")
    terms = _matches(Adapter.namespace, namespace) if slash else []
    return (*terms, *_matches(Adapter.name, name))


def _matches(column: Any, glob: str) -> list[ColumnElement[bool]]:
    """Equality, or a range over the literal prefix, which an index serves, and LIKE for what follows it."""
    prefix = glob[: min((glob.index(wildcard) for wildcard in "*?" if wildcard in glob), default=len(glob))]
    if prefix == glob:
        return [column == glob]
    terms = []
    if prefix:
        terms += [column >= prefix, column < prefix[:-1] + chr(ord(prefix[-1]) + 1)]
    if glob != prefix + "*":
        pattern = glob.replace("_", r"\_").replace("*", "%").replace("?", "_")
        terms.append(column.like(pattern, escape="\\"))
    return terms


def _named(terms: tuple[ColumnElement[bool], ...], scope: Any) -> Select[int]:
    return select(Version.id).join(Adapter, Adapter.id == Version.adapter_id).where(scope, *terms)


def _between(column: Any, bounds: Bounds | None) -> list[ColumnElement[bool]]:
    if bounds is None:
        return []
    ends = ((bounds.low, column.__ge__), (bounds.high, column.__le__))
    return [compare(end) for end, compare in ends if end is not None]
