"""The versions that a question about many adapters asks about, each with its facts from what the catalog stores."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import or_, select

from engine.errors import EngineError
from engine.format.adapter import read_adapter
from registry.among import among
from registry.models import Adapter, Alias, Document, Version
from registry.newest import IS_NEWEST
from registry.pull import pull
from registry.storedfacts import NEEDED, read_stored

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Mapping, Sequence

    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import Session

    from engine.format.facts import AdapterFacts
    from registry.handle import Handle

# A version's documents are about 60 KB for 224 modules.
_PAGE = 200
_FOLDER = Path()
_MOST_KEPT = 256  # facts take about 300 KB for 224 modules
# What differs between any two adapters and no rule over shapes asks for. A quote inside a name is escaped, so that a
# name never looks like one of these keys.
_MEASURED = re.compile(r',\s*"(?:norm|spectrum)":\s*(?:\[[^\]]*\]|[^,}\]]+)')


@dataclass(frozen=True, slots=True)
class Member:
    """A version and its facts, without norms and spectra. Versions of which no rule can say different things have equal
    `likeness`, and share their facts.
    """

    id: int
    ref: str
    name: str
    base_id: int | None
    base_name: str | None
    facts: AdapterFacts
    likeness: Hashable


def members(handle: Handle, ids: Sequence[int]) -> Iterator[Member]:
    """The versions of these ids, in that order, with one page of them in memory; those that are gone are left out.

    Where a version was pushed by a release that stored less, its files are pulled and read.
    """
    known: dict[Hashable, AdapterFacts] = {}
    for start in range(0, len(ids), _PAGE):
        page = ids[start : start + _PAGE]
        with handle.database.reading() as session:
            rows = {row.id: row for row in _rows(session, page)}
            documents = _documents(session, page)
        for version_id in page:
            if version_id in rows:
                yield _member(handle, rows[version_id], documents.get(version_id, {}), known)


def live_ids(
    session: Session, *, of_base: ColumnElement[bool] | None = None, aliased: bool = True, everything: bool = False
) -> list[int]:
    """The newest versions (and those that an alias names), or all, deleted ones too, in the order of pushes.

    A deleted version is never the newest, and no alias names one.
    """
    query = select(Version.id).order_by(Version.id)
    if not everything:
        query = query.where(or_(IS_NEWEST, Version.id.in_(select(Alias.version_id))) if aliased else IS_NEWEST)
    if of_base is not None:
        query = query.where(of_base)
    return list(session.scalars(query))


def for_base(base_id: int | None, names: Sequence[str]) -> ColumnElement[bool]:
    """Whether a version is for a base: the catalog has it so, or it only gives one of the names."""
    spelled = Version.base_id.is_(None) & Version.base_name.in_(names)
    return spelled if base_id is None else or_(Version.base_id == base_id, spelled)


def alias_names(session: Session, ids: Sequence[int]) -> dict[int, tuple[str, ...]]:
    """The aliases of each version that has some, sorted."""
    found: dict[int, list[str]] = {}
    query = select(Alias.version_id, Alias.name).where(among(Alias.version_id)).order_by(Alias.name)
    for version_id, name in session.execute(query, {"ids": list(ids)}):
        found.setdefault(version_id, []).append(name)
    return {version_id: tuple(names) for version_id, names in found.items()}


def _rows(session: Session, ids: Sequence[int]) -> Sequence[Any]:
    columns = (Version.id, Version.number, Version.base_id, Version.base_name, Adapter.namespace, Adapter.name)
    query = select(*columns).join(Adapter, Adapter.id == Version.adapter_id).where(among(Version.id))
    return session.execute(query, {"ids": list(ids)}).all()


def _documents(session: Session, ids: Sequence[int]) -> dict[int, dict[str, str]]:
    query = select(Document.version_id, Document.kind, Document.body).where(among(Document.version_id))
    found: dict[int, dict[str, str]] = {}
    for version_id, kind, body in session.execute(query.where(Document.kind.in_(NEEDED)), {"ids": list(ids)}):
        found.setdefault(version_id, {})[kind] = body
    return found


def _member(handle: Handle, row: Any, documents: Mapping[str, str], known: dict[Hashable, AdapterFacts]) -> Member:
    name = f"{row.namespace}/{row.name}"
    ref = f"{name}@{row.number}"
    told = dict(documents)
    if "modules" in told:
        told["modules"] = _MEASURED.sub("", told["modules"])
    alike = tuple(blake2b(told[kind].encode()).digest() for kind in NEEDED if kind in told)
    facts = known.get(alike) or _stored(told)
    if facts is None:
        return Member(row.id, ref, name, row.base_id, row.base_name, _pulled(handle, ref), ref)
    if len(known) < _MOST_KEPT:
        known[alike] = facts
    return Member(row.id, ref, name, row.base_id, row.base_name, facts, alike)


def _stored(documents: Mapping[str, str]) -> AdapterFacts | None:
    """None where a release that kept less wrote them, or one that took what this one does not."""
    try:
        found = read_stored(documents, _FOLDER)
    except EngineError:
        return None
    return None if found is None else found[0]


def _pulled(handle: Handle, ref: str) -> AdapterFacts:
    return read_adapter(pull(handle, handle.ref(ref)).path)
