"""What a version comes from and what came from it, as a graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, bindparam, select

from registry.catalog.among import among
from registry.catalog.joins import join_as_written
from registry.models import Adapter, Base, BaseName, BaseTwin, LineageEdge, Version
from registry.results import Edge, LineageGraph, Node

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import CTE, Row, Select
    from sqlalchemy.orm import Session

    _Row = Row[*tuple[Any, ...]]

_EDGE = select(
    LineageEdge.child_id,
    LineageEdge.parent_id,
    LineageEdge.parent_digest,
    LineageEdge.relation,
    LineageEdge.weight,
).order_by(LineageEdge.child_id, LineageEdge.position, LineageEdge.id)
_NODE = (
    select(
        Version.id,
        Version.number,
        Version.digest,
        Version.deleted_at,
        Version.base_id,
        Version.base_name,
        Adapter.namespace,
        Adapter.name,
    )
    .join(Adapter, Adapter.id == Version.adapter_id)
    .where(among(Version.id))
    .order_by(Version.id)
)


def _start(name: str) -> CTE:
    """UNION (not UNION ALL) is the guard against cycles: an id that was seen is not followed again."""
    return select(bindparam("start", type_=BigInteger).label("id")).cte(name, recursive=True)


def _edges_above() -> Select[*tuple[Any, ...]]:
    seen = _start("ancestors")
    step = select(LineageEdge.parent_id).join(seen, LineageEdge.child_id == seen.c.id)
    seen = seen.union(step.where(LineageEdge.parent_id.is_not(None)))
    return _EDGE.join(seen, LineageEdge.child_id == seen.c.id)


def _edges_below() -> Select[*tuple[Any, ...]]:
    seen = _start("descendants")
    seen = seen.union(select(LineageEdge.child_id).join(seen, LineageEdge.parent_id == seen.c.id))
    return _EDGE.join(seen, LineageEdge.parent_id == seen.c.id)


# Made once: making a statement takes longer than running it.
_ABOVE, _BELOW = _edges_above(), _edges_below()


def lineage(session: Session, version_id: int, *, up: bool = True, down: bool = True) -> LineageGraph:
    """All ancestors with their bases, all descendants, or both; deleted versions are in it and say so.

    A parent that this catalog does not hold is a node of kind `unknown`, named by its digest. An id is visited once,
    so the walk ends whatever the edges say.
    """
    join_as_written(session)
    above = _above(session, version_id) if up else []
    below = _below(session, version_id) if down else []
    return _graph(session, version_id, above, below, based=_parents(above) | {version_id} if up else set())


def neighbours(session: Session, version_id: int) -> LineageGraph:
    """One step up and down, and the version's own base."""
    above = session.connection().execute(_EDGE.where(LineageEdge.child_id == version_id)).all()
    below = session.connection().execute(_EDGE.where(LineageEdge.parent_id == version_id)).all()
    return _graph(session, version_id, above, below, based={version_id})


def _above(session: Session, version_id: int) -> Sequence[_Row]:
    return session.connection().execute(_ABOVE, {"start": version_id}).all()


def _below(session: Session, version_id: int) -> Sequence[_Row]:
    return session.connection().execute(_BELOW, {"start": version_id}).all()


def _parents(edges: Sequence[_Row]) -> set[int]:
    return {parent_id for _, parent_id, *_ in edges if parent_id is not None}


def _graph(
    session: Session, start: int, above: Sequence[_Row], below: Sequence[_Row], *, based: set[int]
) -> LineageGraph:
    rows = list(dict.fromkeys([*above, *below]))
    refs: dict[int, str] = {}
    nodes: dict[str, Node] = {}
    given: dict[str, tuple[int | None, str | None]] = {}
    for row in _versions(session, {start} | _parents(rows) | {child_id for child_id, *_ in rows}):
        version_id, number, digest, deleted_at, base_id, base_name, namespace, name = row
        ref = refs[version_id] = f"{namespace}/{name}@{number}"
        nodes[ref] = Node(ref, "version", digest, deleted_at is not None)
        if version_id in based:
            given[ref] = (base_id, base_name)
    edges = []
    for child_id, parent_id, parent_digest, relation, weight in rows:
        parent = parent_digest if parent_id is None else refs[parent_id]
        if parent not in nodes:
            nodes[parent] = Node(parent, "unknown", parent_digest)
        edges.append(Edge(refs[child_id], parent, relation, weight))
    bases, more = _bases(session, given)
    return LineageGraph((*nodes.values(), *bases), (*edges, *more))


def _versions(session: Session, ids: set[int]) -> Sequence[_Row]:
    """The versions of some ids, in the order they were pushed."""
    return session.connection().execute(_NODE, {"ids": sorted(ids)}).all()


def _bases(session: Session, versions: dict[str, tuple[int | None, str | None]]) -> tuple[list[Node], list[Edge]]:
    """The bases of some versions by ref, with the twins of those bases.

    A base that the catalog knows goes by its first name, one it does not know by the name the version gives.
    """
    ids = {base_id for base_id, _ in versions.values() if base_id is not None}
    twins = (
        session.connection()
        .execute(
            select(BaseTwin.base_id, BaseTwin.twin_id, BaseTwin.relation)
            .where(BaseTwin.base_id.in_(ids))
            .order_by(BaseTwin.base_id, BaseTwin.twin_id)
        )
        .all()
    )
    known = _known_bases(session, ids | {twin.twin_id for twin in twins})
    nodes = {node.id: node for node in known.values()}
    edges = []
    for ref, (base_id, spelled) in versions.items():
        name = spelled if base_id is None else known[base_id].id
        if name is not None:
            nodes.setdefault(name, Node(name, "base"))
            edges.append(Edge(ref, name, "base"))
    edges += [Edge(known[twin.base_id].id, known[twin.twin_id].id, twin.relation) for twin in twins]
    return list(nodes.values()), edges


def _known_bases(session: Session, ids: set[int]) -> dict[int, Node]:
    first = select(BaseName.name).where(BaseName.base_id == Base.id).order_by(BaseName.id).limit(1).scalar_subquery()
    rows = session.connection().execute(
        select(Base.id, first.label("name"), Base.fingerprint, Base.layout).where(Base.id.in_(ids)).order_by(Base.id)
    )
    return {row.id: Node(row.name or row.fingerprint or row.layout, "base", row.fingerprint) for row in rows}
