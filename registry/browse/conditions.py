"""The filters of `list` as SQL: what must hold of a version, and which versions could be meant.

Values are parameters by name (registry/browse/shape.py), so that one statement serves all queries of a shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    CompoundSelect,
    Select,
    and_,
    any_,
    bindparam,
    func,
    or_,
    select,
    text,
    true,
    union_all,
)

from registry.models import Adapter, Alias, CheckResult, Metric, Tag, Version

if TYPE_CHECKING:
    from collections.abc import Callable

    from registry.browse.shape import Shape

    Ids = Select[*tuple[Any, ...]] | CompoundSelect[*tuple[Any, ...]]
    Holds = Callable[[Any], ColumnElement[bool]]

# SQLite uses a partial index only where the query repeats its condition word for word; `newest = 1` would not do.
NEWEST = text("versions.newest")


@dataclass(frozen=True, slots=True)
class Condition:
    """One filter. `holds` makes the term over a source of the columns that it `reads`, ids and adapter ids: the table,
    an alias of it, a CTE. What lies in other tables it looks up by key in a scalar subquery, which neither database
    turns into a join.

    `candidates` selects, through an index, the ids of the versions that pass; of all that could pass where not
    `exact`. `arms` in their place are terms over versions in scope, no version fulfilling two.
    """

    holds: Holds | None = None
    reads: tuple[Any, ...] = ()
    candidates: Select[int] | None = None
    arms: tuple[Holds, ...] = ()
    exact: bool = True
    # The same over a materialised CTE of candidates, for all of them at once: see `_within`.
    holds_within: Holds | None = None


@dataclass(frozen=True, slots=True)
class Conditions:
    """All filters of a query: `adapter` terms speak of `adapters`, the others of versions. `scope` leaves out deleted
    versions, or all but the newest.
    """

    adapter: tuple[ColumnElement[bool], ...]
    version: tuple[Condition, ...]
    scope: Any

    def probes(self, row: Any) -> list[ColumnElement[bool]]:
        """What must hold of a version's row."""
        return [one.holds(row) for one in self._open() if one.holds is not None]

    def probes_within(self, found: Any, driver: Condition) -> list[ColumnElement[bool]]:
        """What must hold of the rows of a CTE, where these are a driver's candidates."""
        terms = [one.holds_within or one.holds for one in self._open(driver)]
        return [term(found) for term in terms if term is not None]

    def reads(self, driver: Condition) -> tuple[Any, ...]:
        """The columns that `probes_within` needs of a candidate."""
        return tuple(column for one in self._open(driver) for column in one.reads)

    def _open(self, driver: Condition | None = None) -> list[Condition]:
        return [one for one in self.version if one is not driver or not one.exact]

    @property
    def drivers(self) -> list[Condition]:
        """The conditions that could drive the query."""
        return [one for one in self.version if one.candidates is not None or one.arms]

    def candidates(self, driver: Condition, *columns: Any) -> Ids:
        """Columns of the versions in scope that a driver leaves."""
        if driver.candidates is None:
            arms = [select(*columns).where(self.scope, arm(Version)) for arm in driver.arms]
            return union_all(*arms) if len(arms) > 1 else arms[0]
        ids = driver.candidates.cte("candidates").prefix_with("MATERIALIZED")
        (candidate,) = ids.c
        return select(*columns).select_from(ids).join(Version, Version.id == candidate).where(self.scope)

    def counted(self, driver: Condition) -> Ids:
        """A row for each candidate, from the index alone."""
        return self.candidates(driver, text("1")) if driver.candidates is None else driver.candidates


@lru_cache(256)
def conditions_of(shape: Shape) -> Conditions:
    """The filters of all queries of a shape."""
    scope = Version.deleted_at.is_(None) if shape.all_versions else NEWEST
    adapter = (*_name_terms(shape, "namespace"), *_name_terms(shape, "name"))
    found = [_facts(shape), _base_and_rank(shape), _created(shape), _named(adapter, scope)]
    found += [_tag(shape, n) for n in range(shape.count("tag_key_"))]
    found += [_metric(shape, f"metric_name_{n}", f"metric_{n}") for n in range(shape.count("metric_name_"))]
    found += [_equal(shape, name) for name in ("run_id", "data_digest", "pushed_by", "licence")]
    found += [_commit(shape), _unlicensed(shape)]
    found.append(_alias() if "alias" in shape.given else Condition())
    found.append(_check() if "check_target" in shape.given else Condition())
    if shape.sort == "metric":
        found.append(_metric(shape, "sort_metric", "sort"))
    return Conditions(adapter, tuple(found), scope)


def metric_of(version_id: ColumnElement[int], name: str) -> ColumnElement[float]:
    """The value of the metric that a parameter names, null where a version has none."""
    named = Metric.name == bindparam(name)
    return select(Metric.value).where(Metric.version_id == version_id, named).scalar_subquery()


def _facts(shape: Shape) -> Condition:
    def holds(row: Any) -> ColumnElement[bool]:
        typed = [row.peft_type == bindparam("peft_type")] if "peft_type" in shape.given else []
        return and_(*_between(shape, row.size, "size"), *typed)

    if not {"size_low", "size_high", "peft_type"} & shape.given:
        return Condition()
    return Condition(holds, (Version.size, Version.peft_type))


def _base_and_rank(shape: Shape) -> Condition:
    """Together, because one index holds both."""
    arms = _base_arms(shape)
    ranked = bool({"rank_low", "rank_high"} & shape.given)

    def holds(row: Any) -> ColumnElement[bool]:
        return and_(*([or_(*[arm(row) for arm in arms])] if arms else []), *_between(shape, row.rank, "rank"))

    def with_rank(arm: Holds) -> Holds:
        return lambda row: and_(arm(row), *_between(shape, row.rank, "rank"))

    if not arms:
        driving = (holds,) if not shape.all_versions else ()  # no index has the ranks of all versions
        return Condition(holds, (Version.rank,), arms=driving) if ranked else Condition()
    return Condition(holds, (Version.rank, Version.base_id, Version.base_name), arms=tuple(map(with_rank, arms)))


def _base_arms(shape: Shape) -> list[Holds]:
    if "spellings" not in shape.given:
        return []
    spelled: Any = bindparam("spellings", expanding=True)
    unknown: Holds = lambda row: and_(row.base_id.is_(None), row.base_name.in_(spelled))  # noqa: E731 (beside its twin)
    return [lambda row: row.base_id == bindparam("base_id"), unknown] if "base_id" in shape.given else [unknown]


def _created(shape: Shape) -> Condition:
    given = {"created_above", "created_high"} & shape.given

    def holds(row: Any) -> ColumnElement[bool]:
        above = [row.created_at > bindparam("created_above")] if "created_above" in given else []
        return and_(*above, *_between(shape, row.created_at, "created"))

    if not given:
        return Condition()
    return Condition(holds, (Version.created_at,), select(Version.id).where(holds(Version)))


def _equal(shape: Shape, name: str) -> Condition:
    column = getattr(Version, name)

    def holds(row: Any) -> ColumnElement[bool]:
        equal: ColumnElement[bool] = getattr(row, name) == bindparam(name, type_=column.type)
        return equal

    if name not in shape.given:
        return Condition()
    return Condition(holds, (column,), select(Version.id).where(holds(Version)))


def _commit(shape: Shape) -> Condition:
    kind = Version.git_commit.type

    def holds(row: Any) -> ColumnElement[bool]:
        low, below = (bindparam(f"git_commit_{end}", type_=kind) for end in ("low", "below"))
        return and_(row.git_commit >= low, row.git_commit < below)

    if "git_commit_low" not in shape.given:
        return Condition()
    return Condition(holds, (Version.git_commit,), select(Version.id).where(holds(Version)))


def _unlicensed(shape: Shape) -> Condition:
    def holds(row: Any) -> ColumnElement[bool]:
        none: ColumnElement[bool] = row.licence.is_(None)
        return none

    if "licence_none" not in shape.given:
        return Condition()
    return Condition(holds, (Version.licence,), select(Version.id).where(holds(Version)))


def _tag(shape: Shape, n: int) -> Condition:
    keyed, value = Tag.key == bindparam(f"tag_key_{n}"), bindparam(f"tag_value_{n}", type_=Tag.value.type)
    carriers = select(Tag.version_id).where(keyed, Tag.value == value)

    def holds(row: Any) -> ColumnElement[bool]:
        if shape.dialect == "sqlite":
            # A range of one id: asked for equality, it would take the primary key, and the row for the value.
            return _carried(carriers.where(Tag.version_id.between(row.id, row.id)))
        # The primary key compares numbers, which takes half as long as the texts of the other index.
        carried: ColumnElement[bool] = (
            select(Tag.value).where(Tag.version_id == row.id, keyed).scalar_subquery() == value
        )
        return carried

    return Condition(holds, candidates=carriers, holds_within=_within(shape, carriers, Tag.version_id))


def _metric(shape: Shape, name: str, ends: str) -> Condition:
    carriers = select(Metric.version_id).where(Metric.name == bindparam(name), *_between(shape, Metric.value, ends))
    return Condition(
        lambda row: _carried(carriers.where(Metric.version_id == row.id)),
        candidates=carriers,
        holds_within=_within(shape, carriers, Metric.version_id),
    )


def _carried(ids: Select[int]) -> ColumnElement[bool]:
    return ids.scalar_subquery().is_not(None)


def _within(shape: Shape, carriers: Select[int], version_id: Any) -> Holds | None:
    """Whether a candidate is among the carriers, which PostgreSQL looks up for all candidates in one pass of the index.

    As an array the ids of the candidates become a condition of the index. IS TRUE keeps the rest a hashed subplan: as a
    join it would be begun with.
    """
    if shape.dialect == "sqlite":
        return None

    def holds(found: Any) -> ColumnElement[bool]:
        ids = func.array(select(found.id).correlate(None).scalar_subquery())
        carried: ColumnElement[bool] = found.id.in_(carriers.where(version_id == any_(ids))).is_(true())
        return carried

    return holds


def _alias() -> Condition:
    named = Alias.name == bindparam("alias")

    def holds(row: Any) -> ColumnElement[bool]:
        target = select(Alias.version_id).where(Alias.adapter_id == row.adapter_id, named)
        points_here: ColumnElement[bool] = row.id == target.scalar_subquery()
        return points_here

    return Condition(holds, candidates=select(Alias.version_id).where(named))


def _check() -> Condition:
    """The newest word of the rules on a target counts, so an older result alone does not pass."""
    targeted = CheckResult.target == bindparam("check_target")
    status: Any = bindparam("check_status")

    def holds(row: Any) -> ColumnElement[bool]:
        results = select(CheckResult.status).where(CheckResult.version_id == row.id, targeted)
        agrees: ColumnElement[bool] = results.order_by(CheckResult.id.desc()).limit(1).scalar_subquery() == status
        return agrees

    known = select(CheckResult.version_id).where(targeted, CheckResult.status == status)
    return Condition(holds, candidates=known.distinct(), exact=False)


def _name_terms(shape: Shape, name: str) -> tuple[ColumnElement[bool], ...]:
    column = getattr(Adapter, name)
    terms = {
        f"{name}_is": column == bindparam(f"{name}_is"),
        f"{name}_low": column >= bindparam(f"{name}_low"),
        f"{name}_below": column < bindparam(f"{name}_below"),
        f"{name}_like": column.like(bindparam(f"{name}_like"), escape="\\"),
    }
    return tuple(term for parameter, term in terms.items() if parameter in shape.given)


def _named(terms: tuple[ColumnElement[bool], ...], scope: Any) -> Condition:
    if not terms:
        return Condition()
    return Condition(candidates=select(Version.id).join(Adapter, Adapter.id == Version.adapter_id).where(scope, *terms))


def _between(shape: Shape, column: Any, name: str) -> list[ColumnElement[bool]]:
    # A bound may lie beyond what the column's own type holds.
    kind = BigInteger() if name in ("rank", "size") else column.type
    terms = {
        f"{name}_low": column >= bindparam(f"{name}_low", type_=kind),
        f"{name}_high": column <= bindparam(f"{name}_high", type_=kind),
    }
    return [term for parameter, term in terms.items() if parameter in shape.given]
