"""What a catalog alone knows of a version: its twins, and whether its base's name still means that base."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import func, or_, select

from engine.compat.finding import Finding
from engine.compat.rule import listed
from engine.compat.together.siblings import SAME_NORM, same_norms
from registry.basemodels import bases
from registry.catalog.among import among
from registry.models import Adapter, Base, BaseName, Document, Version

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import Session

    from engine.compat.finding import Severity

_COMMIT = 40  # hexadecimal digits
_MOST_TWINS = 3


@dataclass(frozen=True, slots=True)
class CatalogRule:
    """A row: what a check asks of the catalog besides the adapter. `summary` states what is wrong when it fires."""

    id: str
    severity: Severity
    summary: str


DIFFERS = CatalogRule("base-differs-from-config", "warning", "The config names another base than the push did.")
MOVED = CatalogRule("base-moved", "warning", "The base's name means another base today.")
REVISION = CatalogRule("base-other-revision", "info", "The base here is of another commit than the config names.")
TWIN = CatalogRule("version-twin", "info", "Another name holds the same tensors.")
DELTA = CatalogRule("version-twin-delta", "info", "Another name's tensors make the same change.")
CATALOG_RULES = (DIFFERS, MOVED, REVISION, TWIN, DELTA)
"""Every row, for pages and reports."""


def base_doubts(
    session: Session, base: int, name: str, *, named: str | None, revision: str | None
) -> tuple[Finding, ...]:
    """What is in doubt about the base of a version: it was pushed for that `base` under that `name`; the config names
    the base `named`, at `revision`.
    """
    apart = None
    if named is not None and named != name:
        apart = bases.other_base(session.get_one(Base, base), name, bases.find(session, named), named)
    found = (apart, moved_base(session, base, name), other_revision(session, base, name, revision))
    return tuple(one for one in found if one is not None)


def moved_base(session: Session, base: int, name: str) -> Finding | None:
    """A warning where the name that a version was pushed with means another base than it did."""
    today = bases.find_id(session, name)
    if today is None or today == base:
        return None
    then, now = _digest(session, base), _digest(session, today)
    return Finding(
        MOVED.id,
        MOVED.severity,
        f"base {name}: expected {then}, which this was pushed for, found {now} under that name",
        where="base_model_name_or_path",
        fix=f"adapters impact --base {then} --to {name}",
    )


def moved_versions(session: Session, ids: Sequence[int]) -> set[int]:
    """Those of some versions of which `moved_base` says something."""
    columns = select(Version.id, Version.base_id, Version.base_name)
    query = columns.where(among(Version.id), Version.base_id.is_not(None), Version.base_name.is_not(None))
    rows = session.execute(query, {"ids": list(ids)}).all()
    means = {name: bases.find_id(session, name) for name in {row.base_name for row in rows}}
    return {row.id for row in rows if means[row.base_name] not in (None, row.base_id)}


def other_revision(session: Session, base: int, name: str, revision: str | None) -> Finding | None:
    """Where the config names a commit, and the base was added as another one."""
    held = session.scalar(select(BaseName.revision).where(BaseName.name == name, BaseName.base_id == base))
    if not (_is_commit(revision) and _is_commit(held)) or held == revision:
        return None
    return Finding(
        REVISION.id,
        REVISION.severity,
        f"base {name}: expected commit {revision}, as the config says, found {held}",
        where="revision",
        fix=f"adapters base add PATH --name {name} --revision {revision}",
    )


def twins(session: Session, version_id: int) -> Iterator[Finding]:
    """Live versions under other names with the same tensors, or other tensors that give each module the same ΔW.

    The latter go by the norms that are kept: of all modules alike, to a millionth, on the same base. It reads a row of
    every version on that base.
    """
    mine = session.get_one(Version, version_id)
    same = or_(Version.digest == mine.digest, Version.tensors_digest == mine.tensors_digest)
    if found := _others(session, mine, same):
        yield _told(TWIN, "found the same tensors in", found)
    if not mine.norm or mine.base_name is None:
        return
    near = Version.norm.between(mine.norm * (1 - SAME_NORM), mine.norm * (1 + SAME_NORM))
    place = Version.base_name == mine.base_name if mine.base_id is None else Version.base_id == mine.base_id
    alike = _others(session, mine, place, near, Version.tensors_digest != mine.tensors_digest)
    norms = _norms(session, [mine.id, *alike])
    if equal := {other: ref for other, ref in alike.items() if same_norms(norms[mine.id], norms[other])}:
        yield _told(DELTA, "found the same change of every module, by its norm, in", equal)


def _told(rule: CatalogRule, what: str, others: Mapping[int, str]) -> Finding:
    refs = list(others.values())
    fix = f"adapters diff REF {refs[0]}"
    return Finding(rule.id, rule.severity, f"expected an adapter of its own, {what} {listed(refs)}", fix=fix)


def _others(session: Session, mine: Version, *conditions: ColumnElement[bool]) -> dict[int, str]:
    """Live versions of other adapters for which the conditions hold: their references by id."""
    columns = select(Version.id, Adapter.namespace, Adapter.name, Version.number)
    query = columns.join(Adapter, Adapter.id == Version.adapter_id).where(
        *conditions, Version.adapter_id != mine.adapter_id, Version.deleted_at.is_(None)
    )
    rows = session.execute(query.order_by(Version.id).limit(_MOST_TWINS))
    return {row.id: f"{row.namespace}/{row.name}@{row.number}" for row in rows}


def _norms(session: Session, ids: Sequence[int]) -> dict[int, dict[str, float | None]]:
    kept = select(Document.version_id, Document.body).where(among(Document.version_id), Document.kind == "modules")
    found: dict[int, dict[str, float | None]] = {one: {} for one in ids}
    for version, body in session.execute(kept, {"ids": list(ids)}):
        found[version] = {entry["name"]: entry.get("norm") for entry in json.loads(body)}
    return found


def _digest(session: Session, base: int) -> str:
    return session.execute(select(func.coalesce(Base.fingerprint, Base.layout)).where(Base.id == base)).scalar_one()


def _is_commit(text: str | None) -> bool:
    return text is not None and len(text) == _COMMIT and all(letter in "0123456789abcdef" for letter in text)
