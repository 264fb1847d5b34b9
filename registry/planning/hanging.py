"""What hangs on a base: versions for it, what was made from them, the aliases on both, and what checks said of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from registry.basemodels import bases
from registry.catalog.among import among
from registry.errors import NotFoundError
from registry.models import Adapter, CheckResult, LineageEdge, Version
from registry.planning.fleet import alias_names, live_ids
from registry.planning.impact import of_base

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.orm import Session

    from registry.handle import Handle


@dataclass(frozen=True, slots=True)
class Hanging:
    """A version. `how` is `base` for one of that base, `lineage` for one of another or no known base made from such."""

    ref: str
    how: str
    newest: bool
    aliases: tuple[str, ...]
    merged_from: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HangingResult:
    """All that would be touched if the base were replaced. `merges` are the versions that were merged from others here;
    `checks` counts the latest result of each version, by target and status.
    """

    base: str
    adapters: int
    aliases: int
    merges: tuple[str, ...]
    checks: Mapping[str, Mapping[str, int]]
    versions: tuple[Hanging, ...]


def hanging(handle: Handle, base: str) -> HangingResult:
    """All live versions for a base, and below them; NotFoundError where neither a base nor a version has that name."""
    with handle.database.reading() as session:
        own = live_ids(session, of_base=of_base(session, handle, base), everything=True)
        if not own and bases.find_id(session, handle.base_name(base)) is None:
            raise NotFoundError(f"base {base!r} is not known", hint="adapters base list")
        below = _below(session, own)
        rows = _rows(session, [*own, *below])
        merged = _merged(session, rows)
        aliases = alias_names(session, list(rows))
        checks = _checks(session, list(rows))
    ours = set(own)
    versions = tuple(
        Hanging(
            ref=ref,
            how="base" if version_id in ours else "lineage",
            newest=newest,
            aliases=aliases.get(version_id, ()),
            merged_from=merged.get(version_id, ()),
        )
        for version_id, (ref, newest) in rows.items()
    )
    merges = tuple(one.ref for one in versions if one.merged_from)
    adapters = len({one.ref.rpartition("@")[0] for one in versions})
    return HangingResult(base, adapters, sum(len(one.aliases) for one in versions), merges, checks, versions)


def _below(session: Session, ids: Sequence[int]) -> list[int]:
    """Live versions made from these, at any depth; a deleted one hides nothing below it."""
    seen, wave = set(ids), list(ids)
    query = select(LineageEdge.child_id).where(among(LineageEdge.parent_id)).distinct()
    while wave:
        wave = [child for child in session.scalars(query, {"ids": wave}) if child not in seen]
        seen.update(wave)
    return sorted(seen.difference(ids))


def _rows(session: Session, ids: Sequence[int]) -> dict[int, tuple[str, bool]]:
    query = select(Version.id, Adapter.namespace, Adapter.name, Version.number, Version.newest)
    query = query.join(Adapter, Adapter.id == Version.adapter_id).where(among(Version.id), Version.deleted_at.is_(None))
    found = session.execute(query.order_by(Adapter.namespace, Adapter.name, Version.number), {"ids": list(ids)})
    return {row.id: (f"{row.namespace}/{row.name}@{row.number}", row.newest) for row in found}


def _merged(session: Session, rows: Mapping[int, tuple[str, bool]]) -> dict[int, tuple[str, ...]]:
    """The parents of each merge; one that is not here by its digest."""
    edge = LineageEdge
    query = select(edge.child_id, edge.parent_id, edge.parent_digest).where(
        among(edge.child_id), edge.relation == "merged_from"
    )
    found: dict[int, list[str]] = {}
    for child, parent, digest in session.execute(query.order_by(edge.child_id, edge.position), {"ids": list(rows)}):
        found.setdefault(child, []).append(rows[parent][0] if parent is not None and parent in rows else digest)
    return {child: tuple(parents) for child, parents in found.items()}


def _checks(session: Session, ids: Sequence[int]) -> dict[str, dict[str, int]]:
    result = CheckResult
    latest = select(func.max(result.id)).where(among(result.version_id)).group_by(result.version_id, result.target)
    query = select(result.target, result.status, func.count()).where(result.id.in_(latest))
    found: dict[str, dict[str, int]] = {}
    counted = query.group_by(result.target, result.status).order_by(result.target, result.status)
    for target, status, count in session.execute(counted, {"ids": list(ids)}):
        found.setdefault(target, {})[status] = count
    return found
