"""The filters of `list` as SQL: what must hold of a version, and which versions could be meant."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, CompoundSelect, Select, and_, func, or_, select, text, union_all

from registry.bases import find
from registry.models import Adapter, Alias, BaseName, CheckResult, Metric, Tag, Version

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from registry.filters import Bounds, ListQuery, Span

# SQLite uses a partial index only where the query repeats its condition word for word; `newest = 1` would not do.
NEWEST = text("versions.newest")
_INSTANT = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Condition:
    """One filter. `probe` holds of the row of `versions` it is put beside, found by primary keys alone: as a scalar
    subquery, which neither database turns into a join. `candidates` selects, through an index, the ids of all
    versions that could pass; None where no index helps.
    """

    probe: ColumnElement[bool] | None = None
    candidates: Select[int] | CompoundSelect[int] | None = None


@dataclass(frozen=True, slots=True)
class Conditions:
    """All filters of a query: `adapter` terms speak of `adapters`, the others of `versions`."""

    scope: Any
    adapter: tuple[ColumnElement[bool], ...]
    version: tuple[Condition, ...]

    @property
    def probes(self) -> tuple[ColumnElement[bool], ...]:
        """What must hold of a version."""
        return tuple(condition.probe for condition in self.version if condition.probe is not None)

    @property
    def candidates(self) -> tuple[Select[int] | CompoundSelect[int], ...]:
        """The id sets that could drive the query."""
        return tuple(condition.candidates for condition in self.version if condition.candidates is not None)


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
        found.append(_has_metric(query.sort.removeprefix("metric:")))
    return Conditions(scope, adapter, tuple(found))


def metric_of(version_id: ColumnElement[int], name: str) -> ColumnElement[float]:
    """The value of a metric of a version, null where it has none."""
    return select(Metric.value).where(Metric.version_id == version_id, Metric.name == name).scalar_subquery()


def _facts(query: ListQuery) -> Condition:
    terms = _between(Version.size, query.size)
    if query.peft_type is not None:
        terms.append(Version.peft_type == query.peft_type)
    return Condition(and_(*terms) if terms else None)


def _base_and_rank(session: Session, query: ListQuery, scope: Any) -> Condition:
    """Together, because one index holds both."""
    rank = _between(Version.rank, query.rank)
    if query.base is None:
        indexed = bool(rank) and not query.all_versions
        return Condition(and_(*rank) if rank else None, _ids(scope, *rank) if indexed else None)
    arms = _base_arms(session, query.base)
    wanted = [_ids(scope, arm, *rank) for arm in arms]
    return Condition(and_(or_(*arms), *rank), union_all(*wanted) if len(wanted) > 1 else wanted[0])


def _base_arms(session: Session, wanted: str) -> list[ColumnElement[bool]]:
    """A version fits by its known base, or by an equal spelling where its base is unknown."""
    base = find(session, wanted)
    if base is None:
        return [and_(Version.base_id.is_(None), Version.base_name == wanted)]
    today = select(func.max(BaseName.id)).group_by(BaseName.name)  # a name may have meant another base before
    names = session.scalars(select(BaseName.name).where(BaseName.base_id == base.id, BaseName.id.in_(today)))
    unknown = and_(Version.base_id.is_(None), Version.base_name.in_(sorted({wanted, *names})))
    return [Version.base_id == base.id, unknown]


def _created(session: Session, span: Span) -> Condition:
    """SQLite keeps moments as text, with or without a fraction, so an end is compared a microsecond beside a second."""
    low, high = (_moment(session, end) for end in (span.low, span.high))
    terms: list[ColumnElement[bool]] = []
    if low is not None:
        terms.append(Version.created_at > low - _INSTANT)
    if high is not None:
        terms.append(Version.created_at <= high)
    return Condition(and_(*terms), select(Version.id).where(*terms)) if terms else Condition()


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
    carried = select(Tag.value).where(Tag.version_id == Version.id, Tag.key == key).correlate(Version).scalar_subquery()
    return Condition(carried == value, select(Tag.version_id).where(Tag.key == key, Tag.value == value))


def _metric(name: str, bounds: Bounds) -> Condition:
    measured = (
        select(Metric.value)
        .where(Metric.version_id == Version.id, Metric.name == name, *_between(Metric.value, bounds))
        .correlate(Version)
        .scalar_subquery()
    )
    wanted = select(Metric.version_id).where(Metric.name == name, *_between(Metric.value, bounds))
    return Condition(measured.is_not(None), wanted)


def _has_metric(name: str) -> Condition:
    value = select(Metric.value).where(Metric.version_id == Version.id, Metric.name == name)
    return Condition(
        value.correlate(Version).scalar_subquery().is_not(None), select(Metric.version_id).where(Metric.name == name)
    )


def _alias(alias: str) -> Condition:
    target = select(Alias.version_id).where(Alias.adapter_id == Version.adapter_id, Alias.name == alias)
    return Condition(
        target.correlate(Version).scalar_subquery() == Version.id, select(Alias.version_id).where(Alias.name == alias)
    )


def _check(target: str, status: str) -> Condition:
    """The newest word of the rules on a target counts, so an older result alone does not pass."""
    newest = (
        select(CheckResult.status)
        .where(CheckResult.version_id == Version.id, CheckResult.target == target)
        .order_by(CheckResult.id.desc())
        .limit(1)
        .correlate(Version)
        .scalar_subquery()
    )
    known = select(CheckResult.version_id).where(CheckResult.target == target, CheckResult.status == status)
    return Condition(newest == status, known.distinct())


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


def _ids(scope: Any, *terms: ColumnElement[bool]) -> Select[int]:
    return select(Version.id).where(scope, *terms)


def _between(column: Any, bounds: Bounds | None) -> list[ColumnElement[bool]]:
    if bounds is None:
        return []
    ends = ((bounds.low, column.__ge__), (bounds.high, column.__le__))
    return [compare(end) for end, compare in ends if end is not None]
