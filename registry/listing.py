"""`list`: one page of versions.

Two shapes of query, neither of which needs the database's statistics to be fast. Where a filter is met by few versions
(counted through its index, up to a cap) they are fetched and sorted. Otherwise the versions are walked in the order of
the list, each filter is looked up by primary key, and the walk ends when the page is full.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Select, bindparam, func, select, text, tuple_
from sqlalchemy.orm import aliased

from registry.conditions import FACTS, NEWEST, conditions_of, metric_of
from registry.cursor import decode_cursor, encode_cursor, mark_of
from registry.joins import join_as_written
from registry.models import Adapter, Alias, BaseName, Metric, Tag, Version
from registry.results import VersionInfo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Row
    from sqlalchemy.orm import Session

    from registry.conditions import Condition, Conditions, Ids
    from registry.cursor import KeyValue
    from registry.filters import ListQuery

# Fetching and sorting this many rows takes about as long as a page may.
FEW = 2000
_FACTS = 10  # columns of a row after its sort key
_CHUNK = 500  # both databases bound the number of parameters of a statement
_THESE: Any = bindparam("ids", expanding=True)
_ALIASES = select(Alias.version_id, Alias.name).where(Alias.version_id.in_(_THESE)).order_by(Alias.name)
_TAGS = select(Tag.version_id, Tag.key, Tag.value).where(Tag.version_id.in_(_THESE)).order_by(Tag.version_id, Tag.key)
_METRICS = (
    select(Metric.version_id, Metric.name, Metric.value)
    .where(Metric.version_id.in_(_THESE))
    .order_by(Metric.version_id, Metric.name)
)


@dataclass(frozen=True, slots=True)
class _Order:
    """The columns that a list is sorted by, the last one making it total, and the types of their values."""

    columns: tuple[Any, ...]
    kinds: tuple[type[KeyValue], ...]


@dataclass(frozen=True, slots=True)
class Labels:
    """What hangs on versions, by version id."""

    aliases: dict[int, tuple[str, ...]]
    tags: dict[int, dict[str, str]]
    metrics: dict[int, dict[str, float]]


def list_versions(session: Session, query: ListQuery) -> list[VersionInfo]:
    """One page of the newest versions of all adapters, or of all versions; deleted ones never appear.

    Rows that are there throughout are neither skipped nor repeated from page to page. UsageError for a cursor that
    belongs to another list.
    """
    join_as_written(session)
    conditions = conditions_of(session, query)
    page = _page(query, conditions, _fewest(session, conditions.drivers))
    rows = session.connection().execute(_with_facts(page, query)).all()
    labels = labels_of(session, [row.id for row in rows])
    mark = mark_of(query)
    return [_info(row, labels, mark) for row in rows]


def labels_of(session: Session, ids: Sequence[int]) -> Labels:
    """Aliases, tags and metrics of some versions: one query each per 500 versions."""
    aliases: dict[int, tuple[str, ...]] = {}
    tags: dict[int, dict[str, str]] = {}
    metrics: dict[int, dict[str, float]] = {}
    database = session.connection()
    for start in range(0, len(ids), _CHUNK):
        chunk = {"ids": ids[start : start + _CHUNK]}
        for version_id, alias in database.execute(_ALIASES, chunk).all():
            aliases[version_id] = (*aliases.get(version_id, ()), alias)
        for version_id, key, value in database.execute(_TAGS, chunk).all():
            tags.setdefault(version_id, {})[key] = value
        for version_id, name, number in database.execute(_METRICS, chunk).all():
            metrics.setdefault(version_id, {})[name] = number
    return Labels(aliases, tags, metrics)


def base_label() -> ColumnElement[str | None]:
    """A version's base as it was spelled at push, else the first name of the base it is known by."""
    first = select(BaseName.name).where(BaseName.base_id == Version.base_id).order_by(BaseName.id).limit(1)
    return func.coalesce(Version.base_name, first.correlate(Version).scalar_subquery())


def _fewest(session: Session, drivers: Sequence[Condition]) -> Condition | None:
    """The one with the smallest candidate set, None where all are large. Counting stops at the cap."""
    if not drivers:
        return None
    sets = [driver.candidates.limit(FEW).subquery() for driver in drivers if driver.candidates is not None]
    capped = [select(func.count()).select_from(ids).scalar_subquery() for ids in sets]
    counts = session.connection().execute(select(*[count.label(f"c{n}") for n, count in enumerate(capped)])).one()
    smallest = min(range(len(drivers)), key=lambda n: int(counts[n]))
    return drivers[smallest] if counts[smallest] < FEW else None


def _page(query: ListQuery, conditions: Conditions, driver: Condition | None) -> Select[Any]:
    """Ids and sort keys (`k0`, `k1`, …) of the page's rows."""
    if driver is not None and driver.candidates is not None:
        found, order = _driven(query, conditions, driver.candidates, whole=driver.whole)
    elif query.sort == "name" and not query.all_versions:
        found, order = _over_adapters(query, conditions)
    else:
        found, order = _over_versions(query, conditions)
    key = decode_cursor(query, order.kinds)
    if key is not None:
        found = found.where(_after(order.columns, key, descending=query.descending))
    found = found.add_columns(*[column.label(f"k{n}") for n, column in enumerate(order.columns)])
    found = found.order_by(*[column.desc() if query.descending else column for column in order.columns])
    return found.limit(query.limit) if query.limit else found


def _driven(query: ListQuery, conditions: Conditions, ids: Ids, *, whole: bool) -> tuple[Select[Any], _Order]:
    """From the candidates' rows, fetched once; a materialised CTE has no indexes that could lead a planner away."""
    if not whole:
        candidates = ids.cte("candidates").prefix_with("MATERIALIZED")
        (candidate,) = candidates.c
        ids = select(*FACTS).select_from(candidates).join(Version, Version.id == candidate)
    found = ids.cte("found").prefix_with("MATERIALIZED")
    row = found.c
    scope = row.deleted_at.is_(None) if query.all_versions else row.newest
    page = select(row.id).join(Adapter, Adapter.id == row.adapter_id)
    return page.where(scope, *conditions.adapter, *conditions.probes(row)), _order(query, row)


def _over_adapters(query: ListQuery, conditions: Conditions) -> tuple[Select[Any], _Order]:
    """The newest version as a scalar subquery: the walk over adapters by name is all that is left to plan."""
    newest = select(Version.id).where(Version.adapter_id == Adapter.id, NEWEST, *conditions.probes(Version))
    version_id = newest.correlate(Adapter).scalar_subquery()
    page = select(version_id.label("id")).select_from(Adapter).where(version_id.is_not(None), *conditions.adapter)
    return page, _order(query, Version)


def _over_versions(query: ListQuery, conditions: Conditions) -> tuple[Select[Any], _Order]:
    """In the order of the list; what a version must fulfil is hidden in a scalar subquery."""
    walked = aliased(Version, name="walked")
    scope = walked.deleted_at.is_(None) if query.all_versions else text("walked.newest")
    page = select(walked.id).join(Adapter, Adapter.id == walked.adapter_id).where(scope, *conditions.adapter)
    probes = conditions.probes(Version)
    if probes:
        fits = select(Version.id).where(Version.id == walked.id, *probes).correlate(walked)
        page = page.where(fits.scalar_subquery().is_not(None))
    return page, _order(query, walked)


def _order(query: ListQuery, version: Any) -> _Order:
    by_name = (Adapter.namespace, Adapter.name)
    if query.sort == "name" and not query.all_versions:
        return _Order(by_name, (str, str))
    if query.sort == "name":
        return _Order((*by_name, version.number), (str, str, int))
    if query.sort == "created":  # ids grow with every push; clocks do not
        return _Order((version.id,), (int,))
    if query.sort.startswith("metric:"):
        return _Order((metric_of(version.id, query.sort.removeprefix("metric:")), version.id), (float, int))
    column = {"size": version.size, "rank": func.coalesce(version.rank, -1), "version": version.number}[query.sort]
    return _Order((column, version.id), (int, int))


def _after(columns: tuple[Any, ...], key: tuple[KeyValue, ...], *, descending: bool) -> ColumnElement[bool]:
    if len(columns) == 1:
        single: ColumnElement[bool] = columns[0] < key[0] if descending else columns[0] > key[0]
        return single
    return tuple_(*columns) < tuple_(*key) if descending else tuple_(*columns) > tuple_(*key)


def _with_facts(page: Select[Any], query: ListQuery) -> Select[Any]:
    """The page's rows in full, in its order."""
    rows = page.subquery("page")
    page_id, *keys = rows.c
    facts = (Version.id, Version.number, Version.digest, Version.peft_type, Version.rank, Version.size)
    return (
        select(*keys, *facts, Version.created_at, Adapter.namespace, Adapter.name, base_label().label("base"))
        .select_from(rows)
        .join(Version, Version.id == page_id)
        .join(Adapter, Adapter.id == Version.adapter_id)
        .order_by(*[key.desc() if query.descending else key for key in keys])
    )


def _info(row: Row[*tuple[Any, ...]], labels: Labels, mark: str) -> VersionInfo:
    name = f"{row.namespace}/{row.name}"
    return VersionInfo(
        ref=f"{name}@{row.number}",
        name=name,
        version=row.number,
        digest=row.digest,
        base=row.base,
        peft_type=row.peft_type,
        rank=row.rank,
        size=row.size,
        aliases=labels.aliases.get(row.id, ()),
        tags=labels.tags.get(row.id, {}),
        metrics=labels.metrics.get(row.id, {}),
        created_at=row.created_at,
        cursor=encode_cursor(mark, tuple(row)[:-_FACTS]),
    )
