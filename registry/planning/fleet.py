"""The versions that a question about many adapters asks about, each with its facts from what the catalog stores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import or_, select

from engine.errors import EngineError
from engine.format.adapter import read_adapter
from registry.catalog.among import among
from registry.catalog.newest import IS_NEWEST
from registry.findings.storedfacts import NEEDED, SharedFacts
from registry.models import Adapter, Alias, Document, Version
from registry.pulls.pull import pull

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import Session

    from engine.format.facts import AdapterFacts
    from registry.handle import Handle

# A version's documents are about 60 KB for 224 modules.
_PAGE = 200


@dataclass(frozen=True, slots=True)
class Member:
    """A version and its facts, without norms and spectra. Versions that differ in those alone share their facts, as
    long as these are among the newest that were read.
    """

    id: int
    ref: str
    name: str
    base_id: int | None
    base_name: str | None
    facts: AdapterFacts


def members(handle: Handle, ids: Sequence[int]) -> Iterator[Member]:
    """The versions of these ids, in that order, with one page of them in memory; those that are gone are left out.

    Where a version was pushed by a release that stored less, its files are pulled and read.
    """
    shared = SharedFacts()
    for start in range(0, len(ids), _PAGE):
        page = ids[start : start + _PAGE]
        with handle.database.reading() as session:
            rows = {row.id: row for row in _rows(session, page)}
            documents = _documents(session, page)
        for version_id in page:
            if version_id in rows:
                yield _member(handle, rows[version_id], documents.get(version_id, {}), shared)


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


def _member(handle: Handle, row: Any, documents: Mapping[str, str], shared: SharedFacts) -> Member:
    name = f"{row.namespace}/{row.name}"
    ref = f"{name}@{row.number}"
    facts = _stored(documents, shared) or _pulled(handle, ref)
    return Member(row.id, ref, name, row.base_id, row.base_name, facts)


def _stored(documents: Mapping[str, str], shared: SharedFacts) -> AdapterFacts | None:
    """None where a release that kept less wrote them, or one that took what this one does not."""
    try:
        return shared.facts(documents)
    except EngineError:
        return None


def _pulled(handle: Handle, ref: str) -> AdapterFacts:
    return read_adapter(pull(handle, handle.ref(ref)).path)
