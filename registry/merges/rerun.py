"""`merge --rerun`: a merge done again from its recipe, and its tensors compared with those that were published."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from engine.format.base import read_base
from engine.format.files.digest import tensors_digest
from engine.format.files.header import read_header
from registry.errors import NotFoundError, UsageError
from registry.merges.combination import from_parameters
from registry.merges.ingredients import fetch
from registry.merges.merge import SCHEMA
from registry.merges.weighting import parse_weighting
from registry.models import Adapter, LineageEdge, Recipe, Version
from registry.operations import Ingredient, merge_adapters, tool_versions
from registry.results import RerunResult
from registry.values.progress import silent
from registry.values.refs import Name, Ref
from registry.versions.resolve import resolve

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sqlalchemy.orm import Session

    from registry.handle import Handle
    from registry.values.progress import Progress


def rerun(
    handle: Handle,
    ref: Ref,
    *,
    base: Path | None = None,
    jobs: int | None = None,
    device: str = "cpu",
    progress: Progress = silent,
) -> RerunResult:
    """Repeat the merge that made a version, publish nothing, and tell whether the tensors are the same.

    Raises UsageError for a version that no merge made, or whose base is needed and is not the one at `base`;
    NotFoundError where a parent is gone.
    """
    with handle.database.reading() as session:
        version = resolve(session, ref)
        named = f"{ref.name}@{version.number}"
        expected = version.tensors_digest
        body = _body(session, version, named)
        if expected is None:
            raise UsageError(f"{named}: its tensors were never digested", hint=f"adapters verify {named}")
        refs = [_parent(session, version.id, parent["digest"], named) for parent in body["parents"]]
    _check_base(named, body.get("base"), base)
    parents = fetch(handle, refs)
    row = [parse_weighting(one["weight"], where=f"recipe of {named}") for one in body["parents"]]
    with handle.store.staging() as staging:
        out = staging.folder / "again"
        merge_adapters(
            [Ingredient(one.path, weight, one.tensors_digest) for one, weight in zip(parents, row, strict=True)],
            from_parameters(body["method"], body["parameters"]),
            [row],
            [out],
            base=base,
            jobs=jobs,
            device=device,
            progress=lambda done, total, name: progress(f"merging {name}", done, total),
        )
        weights = out / "adapter_model.safetensors"
        found = tensors_digest(weights, read_header(weights))
    return RerunResult(named, found == expected, expected, found, _moved(body["tool"]))


def _body(session: Session, version: Version, named: str) -> dict[str, Any]:
    text = session.scalar(select(Recipe.body).where(Recipe.id == version.recipe_id))
    body = {} if text is None else json.loads(text)
    if not isinstance(body.get("parents"), list) or "parameters" not in body:
        raise UsageError(f"{named}: no merge made it, so there is nothing to repeat", hint=f"adapters show {named}")
    if not _is_readable(body):
        raise UsageError(f"{named}: its recipe is none that this release can repeat", hint=f"adapters show {named}")
    return body


def _is_readable(body: Mapping[str, Any]) -> bool:
    """Whether this is the recipe that a merge writes; one in a bundle is a stranger's."""
    parents = body["parents"]
    return (
        body.get("schema") == SCHEMA
        and isinstance(body.get("method"), str)
        and isinstance(body["parameters"], dict)
        and isinstance(body.get("base"), str | None)
        and isinstance(body.get("tool"), dict)
        and all(isinstance(one, dict) and isinstance(one.get("digest"), str) and "weight" in one for one in parents)
    )


def _check_base(named: str, recorded: str | None, base: Path | None) -> None:
    if recorded is None:
        return
    if base is None:
        raise UsageError(f"{named}: its merge read base weights ({recorded})", hint="--base PATH, that checkpoint")
    found = read_base(base).fingerprint
    if found != recorded:
        raise UsageError(f"{base}: another base than {named} was merged with: expected {recorded}, found {found}")


def _parent(session: Session, child: int, digest: str, named: str) -> Ref:
    """The recorded parent of that digest, or any version that is the same."""
    own = select(LineageEdge.parent_id).where(LineageEdge.child_id == child, LineageEdge.parent_digest == digest)
    row = session.execute(
        select(Adapter.namespace, Adapter.name, Version.number)
        .join(Adapter, Adapter.id == Version.adapter_id)
        .where(Version.digest == digest, Version.deleted_at.is_(None))
        .order_by(Version.id.in_(own).desc(), Version.id)
        .limit(1)
    ).one_or_none()
    if row is None:
        raise NotFoundError(f"{named}: its parent {digest} is not in this registry", hint=f"adapters lineage {named}")
    return Ref(Name(row.namespace, row.name), number=row.number, digest=digest)


def _moved(recorded: Mapping[str, str]) -> dict[str, tuple[str | None, str | None]]:
    """Packages whose version is another than the recipe's: (then, now)."""
    now = tool_versions()
    names = sorted(recorded.keys() | now.keys())
    return {name: (recorded.get(name), now.get(name)) for name in names if recorded.get(name) != now.get(name)}
