"""Plan: the room that a server needs for some adapters, and who of them it cannot serve."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sqlalchemy import select

from engine.compat.capacity.launch import MOST_NAMED, server_command
from engine.compat.capacity.plan import SERVED_BYTES, Wishes, need_of, plan_capacity
from engine.compat.capacity.pools import POOLS, find_pool
from engine.compat.engines.check import check_for
from engine.compat.engines.target import parse_target
from engine.compat.finding import worst_status
from engine.compat.newest import Newest
from engine.compat.shared import Shared
from registry.basemodels import bases
from registry.basemodels.basecheck import base_facts, base_findings
from registry.catalog.among import among
from registry.errors import UsageError
from registry.models import Alias, Base, Version
from registry.planning.fleet import for_base, live_ids, members
from registry.versions.resolve import resolve

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from sqlalchemy.orm import Session

    from engine.compat.capacity.plan import Capacity, Need
    from engine.compat.capacity.pools import Pool
    from engine.compat.engines.table import EngineTarget
    from engine.compat.finding import Finding, Status
    from engine.format.facts import AdapterFacts, BaseFacts
    from registry.handle import Handle
    from registry.planning.fleet import Member

_MOST_KEPT = 256
_LIMIT = "max_lora_rank"


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """What is to be served where: references, or without any the newest versions (those of `alias`) for `base`."""

    target: str
    refs: tuple[str, ...] = ()
    base: str | None = None
    alias: str | None = None
    dtype: str | None = None
    max_loras: int | None = None
    memory: int | None = None


@dataclass(frozen=True, slots=True)
class PlanResult:
    """The room for all adapters that the engine serves; None where it serves none of them.

    `findings` say by name who is left out and why, `command` starts the server, `notes` what the figures leave open.
    """

    engine: str
    version: str | None
    base: str | None
    status: Status
    asked: int
    capacity: Capacity | None
    command: str | None
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Floor:
    """What all adapters of a server stand on."""

    name: str | None
    facts: BaseFacts | None


def plan(handle: Handle, request: PlanRequest) -> PlanResult:
    """The smallest room that holds what is asked for; an adapter with an error of the engine's or the base's rules is
    left out of it and named.

    UsageError: adapters of several bases, an engine of whose room nothing is known, a rank it cannot be started with.
    """
    target = parse_target(request.target)
    pool = find_pool(target.engine.name)
    if pool is None:
        known = ", ".join(one.engine for one in POOLS)
        raise UsageError(f"{target.engine.name}: nothing is known of its room for adapters; expected one of {known}")
    target = _widest(target, pool, capped=_LIMIT in request.target)
    ids, floor = _chosen(handle, request)
    findings: list[Finding] = []
    needs: list[Need] = []
    served: dict[str, str] = {}
    for member, found, need in _judged(handle, ids, target, pool, floor.facts):
        findings += (replace(finding, target=member.ref) for finding in found)
        if need is not None:
            needs.append(need)
            served[member.ref] = member.name
    wishes = Wishes(request.dtype or _dtype(floor.facts), request.max_loras, request.memory)
    room = plan_capacity(needs, pool, base=floor.facts, wishes=wishes) if needs else None
    return PlanResult(
        engine=target.engine.name,
        version=None if target.version is None else str(target.version),
        base=floor.name,
        status=worst_status(findings),
        asked=len(ids),
        capacity=room,
        command=None
        if room is None
        else server_command(pool.engine, room, floor.name, _named(served), dtype=request.dtype),
        findings=tuple(findings),
        notes=tuple(_notes(floor, room, len(served))),
    )


def _widest(target: EngineTarget, pool: Pool, *, capped: bool) -> EngineTarget:
    """The target at the limit that was given, else at the largest that the engine can have."""
    given = target.number(_LIMIT) if capped else None
    if given is not None and pool.bucket(given) != given:
        allowed = ", ".join(map(str, pool.buckets or ()))
        raise UsageError(f"{_LIMIT}={given}: {pool.engine} can be started with one of {allowed}")
    if not capped and _LIMIT in target.limits:
        return replace(target, limits={**target.limits, _LIMIT: None if pool.buckets is None else pool.buckets[-1]})
    return target


def _judged(
    handle: Handle, ids: Sequence[int], target: EngineTarget, pool: Pool, base: BaseFacts | None
) -> Iterator[tuple[Member, tuple[Finding, ...], Need | None]]:
    """Each version with what the engine's and the base's rules say of it, and what it needs if none is an error."""
    shared = Shared()
    needs: Newest[tuple[AdapterFacts, Need]] = Newest(_MOST_KEPT)
    for member in members(handle, ids):
        of_engine = check_for(member.facts, target, base=base, shared=shared)
        found = (*of_engine, *base_findings(member.facts, base, shared=shared))
        fine = not any(finding.severity == "error" for finding in found)
        yield member, _told(found), _need(member, pool, needs) if fine else None


def _need(member: Member, pool: Pool, known: Newest[tuple[AdapterFacts, Need]]) -> Need:
    """By the identity of the facts, which versions that are alike share."""
    facts = member.facts
    need = known.get(id(facts), lambda: (facts, need_of(member.ref, facts, pool)))[1]
    return replace(need, ref=member.ref)


def _told(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    return tuple(one for one in findings if one.severity in ("error", "inconclusive", "warning"))


def _chosen(handle: Handle, request: PlanRequest) -> tuple[list[int], _Floor]:
    """The versions and what they stand on; UsageError where that is not one base."""
    wanted = [handle.ref(text) for text in request.refs]
    given = None if request.base is None else base_facts(handle, request.base)
    with handle.database.reading() as session:
        if wanted:
            ids = list(dict.fromkeys(resolve(session, ref).id for ref in wanted))
        else:
            ids = _matching(session, handle, request)
        if not ids:
            raise UsageError("no version is meant", hint="adapters plan --for ENGINE REF…")
        if given is not None:
            return ids, _Floor(request.base, given)
        return ids, _common(session, ids)


def _matching(session: Session, handle: Handle, request: PlanRequest) -> list[int]:
    of_base = None
    if request.base is not None:
        name = handle.base_name(request.base)
        of_base = for_base(bases.find_id(session, name), [request.base, name])
    if request.alias is None:
        return live_ids(session, of_base=of_base, aliased=False)
    named = set(session.scalars(select(Alias.version_id).where(Alias.name == request.alias)))
    return [one for one in live_ids(session, of_base=of_base) if one in named]


def _common(session: Session, ids: Sequence[int]) -> _Floor:
    query = select(Version.base_id, Version.base_name).where(among(Version.id)).distinct()
    found: dict[int | str | None, str | None] = {}
    for base_id, name in session.execute(query, {"ids": list(ids)}):
        known = base_id or (bases.find_id(session, name) if name else None)
        found.setdefault(known or name, name)
    if len(found) > 1:
        names = ", ".join(sorted(str(name) for name in found.values())[:5])
        raise UsageError(
            f"these adapters are for several bases: {names}; one server serves one",
            hint="adapters plan --for ENGINE --base B",
        )
    key, name = next(iter(found.items()))
    if not isinstance(key, int):
        return _Floor(name, None)
    return _Floor(name or _first_name(session, key), bases.facts_of(session.get_one(Base, key)))


def _first_name(session: Session, base_id: int) -> str | None:
    return next(iter(bases.show_base(session, session.get_one(Base, base_id)).names), None)


def _dtype(base: BaseFacts | None) -> str:
    """Engines serve in 16 bits unless told; a base of 32 is cast."""
    stated = None if base is None else base.dtype
    return stated if stated is not None and SERVED_BYTES.get(stated) == 2 else "bfloat16"


def _named(served: dict[str, str]) -> dict[str, str]:
    """References by the name that requests use: the adapter's, or the reference where two versions share it."""
    shared = Counter(served.values())
    return {name if shared[name] == 1 else ref: ref for ref, name in served.items()}


def _notes(floor: _Floor, room: Capacity | None, served: int) -> Iterable[str]:
    if room is None:
        return
    if floor.facts is None:
        yield "the base is not known here: adapters base add PATH --name NAME gives exact figures"
    elif floor.facts.quantization is not None:
        yield f"the base is quantised ({floor.facts.quantization}): its layers' shapes are not known"
    if not room.exact:
        yield "the layers counted are those that the adapters have, so the bytes are the least it can be"
    if served > MOST_NAMED:
        yield f"{served} adapters are too many to name in one command; load them while the server runs"
