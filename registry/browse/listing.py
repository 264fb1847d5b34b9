"""`list`: one page of versions.

Two kinds of query, neither of which needs the database's statistics to be fast. Where a filter is met by few versions
(counted through its index, up to a cap) they are fetched and sorted. Otherwise the versions are walked in the order of
the list, each filter is looked up by key, and the walk ends when the page is full.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Select,
    bindparam,
    cast,
    func,
    null,
    select,
    text,
    tuple_,
    union_all,
)
from sqlalchemy.orm import aliased

from registry.browse.conditions import conditions_of, metric_of
from registry.browse.cursor import decode_cursor, encode_cursor, mark_of
from registry.browse.shape import take_apart
from registry.catalog.among import among
from registry.catalog.joins import join_as_written
from registry.models import Adapter, Alias, BaseName, Metric, Tag, Version
from registry.results import VersionInfo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Row
    from sqlalchemy.orm import Session

    from registry.browse.conditions import Condition, Conditions
    from registry.browse.cursor import KeyValue
    from registry.browse.filters import ListQuery
    from registry.browse.shape import Shape, Values

# Fetching and sorting this many rows takes about as long as a page may.
FEW = 2000
_STEPS = {"sqlite": 4, "postgresql": 1}  # of a walk that take as long as fetching and sorting one candidate
_SPARE = 200  # so few candidates are fetched whatever a walk would cost
_SHAPES = 256  # statements kept; a service that lists asks in a few shapes
# What a version was made from, by the names under which it is shown.
ORIGIN = {
    "pushed_by": Version.pushed_by,
    "git_commit": Version.git_commit,
    "run_id": Version.run_id,
    "data_digest": Version.data_digest,
    "licence": Version.licence,
}
_NO_TEXT, _NO_NUMBER = (cast(null(), type_) for type_ in (Tag.value.type, Metric.value.type))
# One statement for all three: most of the time that they take apart is the way to the database and back.
_LABELS = union_all(
    select(Tag.version_id, Tag.key, Tag.value, _NO_NUMBER).where(among(Tag.version_id)),
    select(Metric.version_id, Metric.name, _NO_TEXT, Metric.value).where(among(Metric.version_id)),
    select(Alias.version_id, Alias.name, _NO_TEXT, _NO_NUMBER).where(among(Alias.version_id)),
)


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
    after = decode_cursor(query, _kinds(query))
    join_as_written(session)
    shape, values = take_apart(session, query, after)
    page = _page(shape, _driver(session, shape, values))
    rows = session.connection().execute(page, values).all()
    labels = labels_of(session, [row[0] for row in rows])
    mark = mark_of(query)
    found = [_info(row, labels, mark) for row in rows]
    return found if query.check is None else _checked(session, found, [row[0] for row in rows], query.check[0])


def _checked(session: Session, found: list[VersionInfo], ids: list[int], question: str) -> list[VersionInfo]:
    """With what is kept of the question; only asked for where a list filters by it."""
    from registry.findings.keptchecks import check_states

    states = check_states(session, ids)
    asked = [next((one for one in states[version] if one.question == question), None) for version in ids]
    return [replace(info, check=state) for info, state in zip(found, asked, strict=True)]


def labels_of(session: Session, ids: Sequence[int]) -> Labels:
    """Aliases, tags and metrics of some versions, each sorted by name."""
    aliases: dict[int, dict[str, None]] = {one: {} for one in ids}
    tags: dict[int, dict[str, str]] = {one: {} for one in ids}
    metrics: dict[int, dict[str, float]] = {one: {} for one in ids}
    for version_id, name, value, number in session.connection().execute(_LABELS, {"ids": ids}).all():
        if value is not None:
            tags[version_id][name] = value
        elif number is not None:
            metrics[version_id][name] = number
        else:
            aliases[version_id][name] = None
    return Labels(
        {one: tuple(sorted(names)) for one, names in aliases.items()},
        {one: dict(sorted(pairs.items())) for one, pairs in tags.items()},
        {one: dict(sorted(pairs.items())) for one, pairs in metrics.items()},
    )


def base_label() -> ColumnElement[str | None]:
    """A version's base as it was spelled at push, else the first name of the base it is known by."""
    first = select(BaseName.name).where(BaseName.base_id == Version.base_id).order_by(BaseName.id).limit(1)
    return func.coalesce(Version.base_name, first.correlate(Version).scalar_subquery())


def _driver(session: Session, shape: Shape, values: Values) -> int | None:
    """The driver with the smallest candidate set, None where a walk is less work. Counting stops at the cap."""
    counting = _counts(shape)
    if counting is None:
        return None
    adapters, *counts = session.connection().execute(counting, {**values, "few": FEW}).one()
    smallest = min(range(len(counts)), key=lambda n: int(counts[n]))
    few = counts[smallest] < FEW
    if few and counts[smallest] > _SPARE and conditions_of(shape).drivers[smallest].arms:
        # All of its candidates are in scope, so they say how far a walk goes where every other row passes the rest.
        walk = min(1, 2 * values["limit"] / counts[smallest]) * adapters if "limit" in values else adapters
        few = counts[smallest] * _STEPS[shape.dialect] < walk
    return smallest if few else None


@lru_cache(_SHAPES)
def _counts(shape: Shape) -> Select[Any] | None:
    """The highest id of an adapter and the number of candidates of each driver, None without drivers."""
    conditions = conditions_of(shape)
    sets = [conditions.counted(driver).limit(bindparam("few")).subquery() for driver in conditions.drivers]
    capped = [select(func.count()).select_from(ids).scalar_subquery() for ids in sets]
    adapters = select(func.max(Adapter.id)).scalar_subquery()
    return select(adapters, *[count.label(f"c{n}") for n, count in enumerate(capped)]) if capped else None


@lru_cache(_SHAPES)
def _page(shape: Shape, driver: int | None) -> Select[Any]:
    """The page's rows in full: id, facts, and what the list is sorted by."""
    conditions = conditions_of(shape)
    if driver is not None:
        found, keys = _driven(shape, conditions, conditions.drivers[driver])
    elif shape.sort == "name" and not shape.all_versions:
        found, keys = _over_adapters(shape, conditions)
    else:
        found, keys = _over_versions(shape, conditions)
    if "after_0" in shape.given:
        found = found.where(_after(keys, descending=shape.descending))
    found = found.add_columns(*[column.label(f"k{n}") for n, column in enumerate(keys)])
    found = found.order_by(*[column.desc() if shape.descending else column for column in keys])
    return _with_facts(found.limit(bindparam("limit")) if "limit" in shape.given else found, shape)


def _driven(shape: Shape, conditions: Conditions, driver: Condition) -> tuple[Select[Any], tuple[Any, ...]]:
    """From the candidates' rows, fetched once; a materialised CTE has no indexes that could lead a planner away."""
    columns = dict.fromkeys((Version.id, Version.adapter_id, *_sorted_by(shape), *conditions.reads(driver)))
    row = conditions.candidates(driver, *columns).cte("found").prefix_with("MATERIALIZED").c
    page = select(row.id).join(Adapter, Adapter.id == row.adapter_id)
    return page.where(*conditions.adapter, *conditions.probes_within(row, driver)), _keys(shape, row)


def _over_adapters(shape: Shape, conditions: Conditions) -> tuple[Select[Any], tuple[Any, ...]]:
    """The newest version as a scalar subquery: the walk over adapters by name is all that is left to plan."""
    probes = conditions.probes(Version)
    newest = select(Version.id).where(Version.adapter_id == Adapter.id, conditions.scope, *probes)
    version_id = newest.correlate(Adapter).scalar_subquery()
    page = select(version_id.label("id")).select_from(Adapter).where(version_id.is_not(None), *conditions.adapter)
    return page, _keys(shape, Version)


def _over_versions(shape: Shape, conditions: Conditions) -> tuple[Select[Any], tuple[Any, ...]]:
    """In the order of the list; what a version must fulfil is hidden in a scalar subquery."""
    walked = aliased(Version, name="walked")
    scope = walked.deleted_at.is_(None) if shape.all_versions else text("walked.newest")
    page = select(walked.id).join(Adapter, Adapter.id == walked.adapter_id).where(scope, *conditions.adapter)
    probes = conditions.probes(Version)
    if probes:
        fits = select(Version.id).where(Version.id == walked.id, *probes).correlate(walked)
        page = page.where(fits.scalar_subquery().is_not(None))
    return page, _keys(shape, walked)


def _keys(shape: Shape, version: Any) -> tuple[Any, ...]:
    """The columns that a list is sorted by, the last one making it total; ids grow with every push, clocks do not."""
    by_name = (Adapter.namespace, Adapter.name)
    if shape.sort == "name":
        return (*by_name, version.number) if shape.all_versions else by_name
    if shape.sort == "created":
        return (version.id,)
    if shape.sort == "metric":
        return metric_of(version.id, "sort_metric"), version.id
    if shape.sort == "rank":
        return func.coalesce(version.rank, -1), version.id
    return version.size if shape.sort == "size" else version.number, version.id


def _sorted_by(shape: Shape) -> tuple[Any, ...]:
    """The columns of a version that `_keys` may need, besides its id."""
    columns = {"name": Version.number, "version": Version.number, "size": Version.size, "rank": Version.rank}
    return (columns[shape.sort],) if shape.sort in columns else ()


def _kinds(query: ListQuery) -> tuple[type[KeyValue], ...]:
    """The types of the values of `_keys`."""
    if query.sort == "name":
        return (str, str, int) if query.all_versions else (str, str)
    if query.sort == "created":
        return (int,)
    return (float, int) if query.sort.startswith("metric:") else (int, int)


def _after(keys: tuple[Any, ...], *, descending: bool) -> ColumnElement[bool]:
    values = [
        # A cursor may hold a larger number than a column.
        bindparam(f"after_{n}", type_=BigInteger() if key.type.python_type is int else key.type)
        for n, key in enumerate(keys)
    ]
    here, there = (keys[0], values[0]) if len(keys) == 1 else (tuple_(*keys), tuple_(*values))
    beyond: ColumnElement[bool] = here < there if descending else here > there
    return beyond


def _with_facts(page: Select[Any], shape: Shape) -> Select[Any]:
    """The page's rows in full, in its order."""
    rows = page.subquery("page")
    page_id, *keys = rows.c
    facts = (Version.id, Adapter.namespace, Adapter.name, Version.number, Version.digest, base_label())
    more = (Version.peft_type, Version.rank, Version.size, Version.created_at)
    columns: tuple[Any, ...] = (*facts, *more, *ORIGIN.values(), *keys)
    return (
        select(*columns)
        .select_from(rows)
        .join(Version, Version.id == page_id)
        .join(Adapter, Adapter.id == Version.adapter_id)
        .order_by(*[key.desc() if shape.descending else key for key in keys])
    )


def _info(row: Row[*tuple[Any, ...]], labels: Labels, mark: str) -> VersionInfo:
    version_id, namespace, own_name, number, digest, base, peft_type, rank, size, created_at, *rest = row
    origin, key = rest[: len(ORIGIN)], rest[len(ORIGIN) :]
    name = f"{namespace}/{own_name}"
    return VersionInfo(
        ref=f"{name}@{number}",
        name=name,
        version=number,
        digest=digest,
        base=base,
        peft_type=peft_type,
        rank=rank,
        size=size,
        aliases=labels.aliases[version_id],
        tags=labels.tags[version_id],
        metrics=labels.metrics[version_id],
        created_at=created_at,
        cursor=encode_cursor(mark, key),
        **dict(zip(ORIGIN, origin, strict=True)),
    )
