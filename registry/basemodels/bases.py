"""Base models: content, the names people use for it, and whether two names mean the same one."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from sqlalchemy import bindparam, delete, func, select

from engine.compat.finding import Finding
from engine.format.facts import BaseFacts
from registry.basemodels.baseinfo import BaseInfo
from registry.catalog.audit import note
from registry.errors import NotFoundError, UsageError
from registry.models import Base, BaseName, Version

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy.orm import Session

_LONGEST_NAME = 1024
_SHORTEST_DIGEST = len("sha256:") + 12
# the base that a name means today: the one it was given to last
MEANING = select(BaseName.base_id).where(BaseName.name == bindparam("name")).order_by(BaseName.id.desc()).limit(1)


@dataclass(frozen=True, slots=True)
class BaseMention:
    """What a version says about its base: the name it was pushed with and the base known then."""

    ref: str
    name: str | None
    base_id: int | None = None


def add(
    session: Session, facts: BaseFacts, names: Sequence[str], *, revision: str | None = None, actor: str | None = None
) -> BaseInfo:
    """Remember a base under its names.

    Equal fingerprint is the same base: it gets the names. A base known from its config alone becomes complete when
    weights of the same layout arrive under one of its names; and a config alone adds nothing to a base of that name
    and layout. Norms that were measured replace those known. A name that meant another base means this one from now on,
    which a note says.
    """
    for name in names:
        _check_name(name)
    base = _same(session, facts, names)
    created = base is None
    if base is None:
        base = Base(layout=facts.layout)
        session.add(base)
    if created or (base.fingerprint is None and facts.fingerprint is not None):
        _describe(base, facts)
    if facts.norms:
        base.norms = json.dumps(dict(facts.norms), sort_keys=True)
    session.flush()
    notes = [text for name in names if (text := _give_name(session, base, name, revision)) is not None]
    notes += _twins(session, base)
    note(session, "base add", str(names[0]) if names else base.layout, actor=actor, created=created, base=base.id)
    session.flush()
    return show_base(session, base, created=created, notes=tuple(notes))


def find(session: Session, name: str) -> Base | None:
    """The base that a name means today, or that has this digest (or 12 hex digits of its fingerprint).

    A name in other letter case counts where only one base has it.
    """
    base_id = find_id(session, name)
    return None if base_id is None else session.get_one(Base, base_id)


def find_id(session: Session, name: str) -> int | None:
    """`find` without reading the base, whose documents are large."""
    if name.startswith("sha256:"):
        base = _by_digest(session, name)
        return None if base is None else base.id
    base_id = session.scalar(MEANING, {"name": name})
    if base_id is not None:
        return base_id
    spellings = session.scalars(select(BaseName.name).where(func.lower(BaseName.name) == name.lower()).distinct())
    meanings = {found.base_id for one in spellings if (found := _meaning(session, one)) is not None}
    return meanings.pop() if len(meanings) == 1 else None


def get(session: Session, name: str) -> Base:
    """Like `find`; NotFoundError where nothing has that name."""
    base = find(session, name)
    if base is None:
        raise NotFoundError(f"base {name}: no base of that name or digest", hint="adapters base list")
    return base


def list_bases(session: Session) -> tuple[BaseInfo, ...]:
    """All bases in the order they were met."""
    return tuple(show_base(session, base) for base in session.scalars(select(Base).order_by(Base.id)))


def show_base(session: Session, base: Base, *, created: bool = False, notes: tuple[str, ...] = ()) -> BaseInfo:
    """A base with the names that mean it today and the number of adapters that have a version for it."""
    names = _names(session, base)
    adapters = session.scalar(
        select(func.count(Version.adapter_id.distinct())).where(
            Version.base_id == base.id, Version.deleted_at.is_(None)
        )
    )
    return BaseInfo(
        names=tuple(row.name for row in names),
        fingerprint=base.fingerprint,
        layout=base.layout,
        architecture=base.architecture,
        model_type=base.model_type,
        dtype=base.dtype,
        quantization=base.quantization,
        tensors=base.tensors,
        parameters=base.parameter_count,
        revision=next((row.revision for row in reversed(names) if row.revision is not None), None),
        adapters=adapters or 0,
        created=created,
        notes=notes,
        norms=0 if base.norms is None else len(json.loads(base.norms)),
    )


def facts_of(base: Base) -> BaseFacts:
    """What was known when the base was added, as the check-in rules take it."""
    parameters = json.loads(base.parameters)
    return BaseFacts(
        layout=base.layout,
        parameters={path: tuple(shape) for path, shape in parameters.items()},
        fingerprint=base.fingerprint,
        architecture=base.architecture,
        model_type=base.model_type,
        dtype=base.dtype,
        quantization=base.quantization,
        tensors=base.tensors,
        config=json.loads(base.config),
        norms=json.loads(base.norms) if base.norms else {},
    )


def other_base(given: Base, given_name: str, named: Base | None, name: str) -> Finding | None:
    """A warning where a push is for another base than its config names: equal layout alone is not the same base."""
    if named is None or named.id == given.id:
        return None
    if None not in (given.fingerprint, named.fingerprint) and given.fingerprint == named.fingerprint:
        return None
    alike = "has the same layout" if given.layout == named.layout else "has another layout"
    return Finding(
        "base-differs-from-config",
        "warning",
        f"the config names base {name}, the push {given_name}, which {alike} but is not known to hold the same weights",
        where="base_model_name_or_path",
    )


def same_base(session: Session, mentions: Sequence[BaseMention]) -> Finding | None:
    """Whether versions may be merged as far as their bases go: None where they are one base, else what is in doubt.

    Equal fingerprints are one base. Equal names are one base unless both fingerprints are known and differ. A missing
    name beside any other is a warning; anything else is an error.
    """
    known = [(mention, _known(session, mention)) for mention in mentions]
    findings = [_compare(one, other) for one, other in combinations(known, 2)]
    doubts = [finding for finding in findings if finding is not None]
    return min(doubts, key=lambda finding: finding.severity, default=None)  # "error" sorts before "warning"


def _compare(one: tuple[BaseMention, Base | None], other: tuple[BaseMention, Base | None]) -> Finding | None:
    (left, left_base), (right, right_base) = one, other
    if left_base is not None and right_base is not None:
        if left_base.id == right_base.id:
            return None
        if left_base.fingerprint is not None and right_base.fingerprint is not None:
            return _different(left, right, "their contents differ")
    if (not left.name and left_base is None) or (not right.name and right_base is None):
        nameless = left if not left.name and left_base is None else right
        return Finding(
            "base-unnamed", "warning", f"{nameless.ref} names no base; merged as if it had the others'", where="base"
        )
    if left.name and left.name == right.name:
        return None
    return _different(left, right, "and it is not known that their contents are equal")


def _different(left: BaseMention, right: BaseMention, why: str) -> Finding:
    return Finding(
        "base-differs",
        "error",
        f"{left.ref} is for base {left.name or 'of another name'}, {right.ref} for {right.name or 'another'}, {why}",
        where="base",
        fix="adapters base add PATH --name NAME for both, or --assume-same-base",
    )


def _known(session: Session, mention: BaseMention) -> Base | None:
    if mention.base_id is not None:
        return session.get_one(Base, mention.base_id)
    return find(session, mention.name) if mention.name else None


def _same(session: Session, facts: BaseFacts, names: Iterable[str]) -> Base | None:
    if facts.fingerprint is not None:
        base = session.scalar(select(Base).where(Base.fingerprint == facts.fingerprint))
        if base is not None:
            return base
    for name in names:
        row = _meaning(session, name)
        base = None if row is None else session.get_one(Base, row.base_id)
        # Either side known from its config alone: name and layout together are all there is to go by.
        if base is not None and base.layout == facts.layout and None in (base.fingerprint, facts.fingerprint):
            return base
    return None


def _describe(base: Base, facts: BaseFacts) -> None:
    base.fingerprint = facts.fingerprint
    base.architecture = facts.architecture
    base.model_type = facts.model_type
    base.dtype = facts.dtype
    base.quantization = facts.quantization
    base.tensors = facts.tensors
    base.parameter_count = sum(math.prod(shape) for shape in facts.parameters.values())
    base.parameters = json.dumps({path: list(shape) for path, shape in facts.parameters.items()}, sort_keys=True)
    base.config = json.dumps(dict(facts.config), sort_keys=True)


def _give_name(session: Session, base: Base, name: str, revision: str | None) -> str | None:
    """Make a name mean this base; a note where it meant another."""
    row = _meaning(session, name)
    if row is not None and row.base_id == base.id:
        row.revision = revision or row.revision
        return None
    # The highest id is what the name means, so an old row of this pair gives way to a new one.
    session.execute(delete(BaseName).where(BaseName.name == name, BaseName.base_id == base.id))
    session.add(BaseName(name=name, base_id=base.id, revision=revision))
    session.flush()
    if row is None:
        return None
    before = session.get_one(Base, row.base_id)
    return (
        f"{name} meant another base before ({before.fingerprint or 'config alone, layout ' + before.layout}); "
        "versions pushed for that one keep it"
    )


def _twins(session: Session, base: Base) -> list[str]:
    query = select(Base).where(Base.layout == base.layout, Base.id != base.id).order_by(Base.id).limit(3)
    twins = [_names(session, twin) for twin in session.scalars(query)]
    called = [rows[0].name for rows in twins if rows]
    return [f"same layout as {', '.join(called)}, but not known to be the same content"] if called else []


def _meaning(session: Session, name: str) -> BaseName | None:
    return session.scalar(select(BaseName).where(BaseName.name == name).order_by(BaseName.id.desc()).limit(1))


def _names(session: Session, base: Base) -> list[BaseName]:
    later = select(func.max(BaseName.id)).group_by(BaseName.name)
    query = select(BaseName).where(BaseName.base_id == base.id, BaseName.id.in_(later))
    return list(session.scalars(query.order_by(BaseName.id)))


def _by_digest(session: Session, text: str) -> Base | None:
    if len(text) < _SHORTEST_DIGEST:
        return None
    column = Base.fingerprint
    query = select(Base).where((column >= text) & (column < text + "g")).limit(2)
    found = session.scalars(query).all()
    if not found:
        found = session.scalars(select(Base).where(Base.layout == text).limit(2)).all()
    return found[0] if len(found) == 1 else None


def _check_name(name: str) -> None:
    if not name or len(name) > _LONGEST_NAME or not name.isprintable():
        raise UsageError(f"base name {name[:120]!r}: expected 1 to {_LONGEST_NAME} printable characters")
    if name.startswith("sha256:"):
        raise UsageError(f"base name {name[:120]!r}: that is how digests start")
