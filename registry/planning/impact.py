"""Impact: which versions break when their base or their serving engine is replaced by another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from sqlalchemy import select

from engine.compat.engines.check import check_for, verdict
from engine.compat.engines.target import parse_target
from engine.compat.finding import Finding
from engine.compat.shared import Shared
from registry.basemodels import bases
from registry.basemodels.basecheck import base_facts, base_findings
from registry.catalog.among import among
from registry.models import Base, Version
from registry.planning.fleet import alias_names, for_base, live_ids, members

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import Session

    from engine.format.facts import BaseFacts
    from registry.handle import Handle
    from registry.planning.fleet import Member

Verdict = Literal["fits", "breaks", "loads", "differs", "refuses", "inconclusive"]
Relation = Literal["same", "layout", "other"]
_GOOD: frozenset[Verdict] = frozenset({"fits", "loads"})
_BAD: frozenset[Verdict] = frozenset({"breaks", "differs", "refuses"})
_TOLD = frozenset({"error", "inconclusive"})
_Both = tuple[tuple[Finding, ...], tuple[Finding, ...]]
_Say = Callable[[Sequence[Finding]], Verdict]


@dataclass(frozen=True, slots=True)
class Change:
    """A version of which the rules say something else afterwards. `new` are the errors that come, `gone` those that
    go; `breaks` where it does not fit (load, compute the same) any more.
    """

    ref: str
    aliases: tuple[str, ...]
    before: Verdict
    after: Verdict
    breaks: bool
    new: tuple[Finding, ...]
    gone: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class ImpactResult:
    """The newest and the aliased versions that were looked at, and those that change.

    `relation` tells of two bases whether their contents are the same, only their layout, or neither (None for engines);
    `unknown` counts versions on which no table has a word.
    """

    before: str
    after: str
    relation: Relation | None
    looked_at: int
    breaks: int
    unknown: int
    changes: tuple[Change, ...]
    notes: tuple[str, ...] = ()


def replaced_base(handle: Handle, base: str, by: str) -> ImpactResult:
    """What changes when a base gives way to another: the rules over a base against both, differences alone."""
    old, new = base_facts(handle, base), base_facts(handle, by)
    with handle.database.reading() as session:
        ids = live_ids(session, of_base=of_base(session, handle, base))
    shared = Shared()

    def ask(member: Member) -> _Both:
        before = base_findings(member.facts, old, name=base, shared=shared)
        return before, base_findings(member.facts, new, name=by, shared=shared)

    changes = _changes(handle, ids, ask, (_fit, _fit))
    relation = _relation(old, new)
    alike = "the same layout" if relation == "layout" else "another layout"
    told = f"{by} has {alike} and is not known to hold the same weights: what fits computes another function there"
    return _result((base, by), relation, len(ids), changes, () if relation == "same" else (told,))


def replaced_engine(handle: Handle, before: str, after: str, *, base: str | None) -> ImpactResult:
    """Which verdicts change between two engines or two releases of one; on versions for `base` where it is given."""
    old, new = parse_target(before), parse_target(after)
    given = None if base is None else base_facts(handle, base)
    with handle.database.reading() as session:
        ids = live_ids(session, of_base=None if base is None else of_base(session, handle, base))
        floors = {} if given is not None else _floors(session, ids)
    shared = Shared()

    def ask(member: Member) -> _Both:
        on = given or floors.get(member.base_id)
        before = check_for(member.facts, old, base=on, shared=shared)
        return before, check_for(member.facts, new, base=on, shared=shared)

    changes = _changes(handle, ids, ask, (lambda found: verdict(found, old), lambda found: verdict(found, new)))
    return _result((str(old), str(new)), None, len(ids), changes, ())


def of_base(session: Session, handle: Handle, base: str) -> ColumnElement[bool]:
    """The condition that a version is for this base, by any of its names or its path."""
    name = handle.base_name(base)
    base_id = bases.find_id(session, name)
    known = () if base_id is None else bases.show_base(session, session.get_one(Base, base_id)).names
    return for_base(base_id, [name, *known])


def _floors(session: Session, ids: Sequence[int]) -> dict[int | None, BaseFacts | None]:
    """The facts of all bases that versions of these ids have, by id."""
    query = select(Version.base_id).where(among(Version.id), Version.base_id.is_not(None)).distinct()
    found = session.scalars(query, {"ids": list(ids)}).all()
    return {base_id: bases.facts_of(session.get_one(Base, base_id)) for base_id in found if base_id is not None}


def _changes(
    handle: Handle, ids: Sequence[int], ask: Callable[[Member], _Both], verdicts: tuple[_Say, _Say]
) -> list[Change]:
    """One for each version of which something else is said afterwards."""
    found = []
    for member in members(handle, ids):
        change = _change(member, ask(member), verdicts)
        if change is not None:
            found.append(change)
    with handle.database.reading() as session:
        names = alias_names(session, [member_id for member_id, _ in found])
    return [replace(change, aliases=names.get(member_id, ())) for member_id, change in found]


def _change(member: Member, both: _Both, verdicts: tuple[_Say, _Say]) -> tuple[int, Change] | None:
    early, late = (tuple(one for one in found if one.severity in _TOLD) for found in both)
    before, after = verdicts[0](early), verdicts[1](late)
    new = _without(late, early)
    if before == after and (after in _GOOD or not new):
        return None
    told = tuple(replace(one, target=member.ref) for one in new)
    breaks = after in _BAD and before != after
    return member.id, Change(member.ref, (), before, after, breaks, told, _without(early, late))


def _without(found: Sequence[Finding], known: Sequence[Finding]) -> tuple[Finding, ...]:
    """The findings whose rule and place are not known already: messages tell of shapes and releases."""
    same = {(one.rule, one.where) for one in known}
    return tuple(one for one in found if (one.rule, one.where) not in same)


def _fit(found: Sequence[Finding]) -> Verdict:
    return "breaks" if any(one.severity == "error" for one in found) else "fits"


def _relation(old: BaseFacts, new: BaseFacts) -> Relation:
    if old.fingerprint is not None and old.fingerprint == new.fingerprint:
        return "same"
    return "layout" if old.layout == new.layout else "other"


def _result(
    ends: tuple[str, str], relation: Relation | None, looked_at: int, changes: Sequence[Change], notes: tuple[str, ...]
) -> ImpactResult:
    unknown = sum(change.after == "inconclusive" for change in changes)
    breaks = sum(change.breaks for change in changes)
    return ImpactResult(*ends, relation, looked_at, breaks, unknown, tuple(changes), notes)
