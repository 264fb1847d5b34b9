"""Merge: versions become a new version, with its parents, recipe and report recorded."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from engine.compat.licence_rules import combine
from registry import bases
from registry.draft import Parent, RecipeDraft
from registry.errors import FindingsError, UsageError
from registry.labels import check_texts
from registry.operations import merge_adapters, tool_versions
from registry.progress import silent
from registry.provenance import PARENTS, claims, first
from registry.pull import pull
from registry.push import PushRequest, check_allowed, push
from registry.resolve import resolve
from registry.results import MergeResult

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sqlalchemy.orm import Session

    from engine.compat.finding import Finding
    from engine.compat.licence_rules import Combined
    from registry.handle import Handle
    from registry.progress import Progress
    from registry.provenance import Claim
    from registry.refs import Name, Ref


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeRequest:
    """What a caller wants merged. `weights` None is 1/n each; `rank` None the method's own default."""

    refs: tuple[Ref, ...]
    into: Name
    method: str
    weights: tuple[float, ...] | None = None
    rank: int | Literal["max"] | None = None
    dtype: str | None = None
    aliases: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    message: str | None = None
    allow: tuple[str, ...] = ()
    assume_same_base: bool = False
    dry_run: bool = False
    actor: str | None = None
    given: Mapping[str, Claim] = field(default_factory=dict)
    surroundings: Mapping[str, Claim] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Source:
    """A parent, resolved and on disk."""

    ref: str
    version_id: int
    digest: str
    base: bases.BaseMention
    weight: float
    path: Path
    licence: str | None


def merge(handle: Handle, request: MergeRequest, *, progress: Progress = silent) -> MergeResult:
    """Merge and publish; in a dry run, merge and tell.

    Raises FindingsError where the parents' bases differ, engine.errors.RefusedError for what a merge cannot carry
    through, UsageError or engine.errors.OptionError for options that fit nothing.
    """
    check_texts(request.tags, request.metrics, request.message)
    check_allowed(request.allow)
    sources = _sources(handle, request)
    with handle.database.reading() as session:
        doubts = _base_doubts(session, request, sources)
    combined = _licences(request, sources)
    doubts += combined.findings
    with handle.store.staging() as staging:
        out = staging.folder / "merged"
        report = merge_adapters(
            [(source.path, source.weight) for source in sources],
            method=request.method,
            rank=request.rank,
            dtype=request.dtype,
            out=out,
            progress=lambda done, total, _name: progress("merging modules", done, total),
        )
        spectra = {module["name"]: module["spectrum"] for module in report["per_module"] if module["spectrum"]}
        report = _told(report, sources)
        if request.dry_run:
            return _dry(request, report, doubts)
        given = first(request.given, claims({"licence": combined.licence}, PARENTS))
        publication = _publication(replace(request, given=given), sources, report, spectra, out)
        published = push(handle, publication, progress=progress)
    return MergeResult(
        ref=published.ref,
        name=published.name,
        version=published.version,
        digest=published.digest,
        tensors_digest=published.tensors_digest,
        created=published.created,
        left_out=published.left_out,
        findings=(*doubts, *published.findings),
        report=report,
        newest=published.newest,
        notes=published.notes,
    )


def _sources(handle: Handle, request: MergeRequest) -> list[_Source]:
    if not request.refs:
        raise UsageError("nothing to merge: expected at least one adapter")
    weights = (1 / len(request.refs),) * len(request.refs) if request.weights is None else request.weights
    if len(weights) != len(request.refs):
        raise UsageError(f"{len(weights)} weights for {len(request.refs)} adapters: expected one for each")
    if not all(math.isfinite(weight) for weight in weights):
        raise UsageError(f"weights {', '.join(map(str, weights))}: expected finite numbers")
    with handle.database.reading() as session:
        for ref in request.refs:
            resolve(session, ref)  # all of them are known before the first is pulled
    return [_source(handle, ref, weight) for ref, weight in zip(request.refs, weights, strict=True)]


def _source(handle: Handle, ref: Ref, weight: float) -> _Source:
    with handle.database.reading() as session:
        version = resolve(session, ref)
        found = f"{ref.name}@{version.number}"
        mention = bases.BaseMention(found, version.base_name, version.base_id)
        row, digest, licence = version.id, version.digest, version.licence
        # The very version that is recorded as the parent, wherever an alias has moved to meanwhile.
        exact = replace(ref, number=version.number, alias=None, latest=False, digest=digest)
    return _Source(found, row, digest, mention, weight, pull(handle, exact).path, licence)


def _base_doubts(session: Session, request: MergeRequest, sources: list[_Source]) -> tuple[Finding, ...]:
    doubt = bases.same_base(session, [source.base for source in sources])
    if doubt is None or (doubt.severity == "error" and request.assume_same_base):
        return ()
    if doubt.severity == "error":
        raise FindingsError(tuple(source.ref for source in sources), [doubt])
    return (doubt,)


def _licences(request: MergeRequest, sources: list[_Source]) -> Combined:
    """The result's licence; FindingsError where the parents' exclude each other and nobody allowed it."""
    combined = combine([(source.ref, source.licence) for source in sources])
    if any(one.severity == "error" and one.rule not in request.allow for one in combined.findings):
        raise FindingsError(", ".join(source.ref for source in sources), combined.findings)
    return combined


def _told(report: Mapping[str, Any], sources: list[_Source]) -> dict[str, Any]:
    """The report with each parent named, and without the spectra, which are stored with the modules."""
    parents = [
        {"ref": source.ref, "digest": source.digest, **parent}
        for source, parent in zip(sources, report["parents"], strict=True)
    ]
    modules = [{key: value for key, value in one.items() if key != "spectrum"} for one in report["per_module"]]
    return {**report, "parents": parents, "per_module": modules}


def _publication(
    request: MergeRequest,
    sources: list[_Source],
    report: Mapping[str, Any],
    spectra: Mapping[str, Any],
    out: Path,
) -> PushRequest:
    parents = [Parent(source.digest, "merged_from", source.weight, source.version_id) for source in sources]
    named = next((source.base.name for source in sources if source.base.name), None)
    return PushRequest(
        path=out,
        name=request.into,
        aliases=request.aliases,
        tags=request.tags,
        metrics=request.metrics,
        message=request.message,
        base=named,
        parents=tuple(parents),
        allow=request.allow,
        recipe=RecipeDraft(request.method, _recipe(request, sources)),
        report=report,
        spectra=spectra,
        actor=request.actor,
        given=request.given,
        surroundings=request.surroundings,
    )


def _recipe(request: MergeRequest, sources: list[_Source]) -> dict[str, Any]:
    """Everything that determines the result; none of the three methods draws random numbers, so there is no seed."""
    return {
        "schema": 1,
        "method": request.method,
        "parameters": {"rank": request.rank, "dtype": request.dtype},
        "parents": [{"digest": source.digest, "weight": source.weight} for source in sources],
        "seed": None,
        "tool": tool_versions(),
    }


def _dry(request: MergeRequest, report: Mapping[str, Any], doubts: tuple[Finding, ...]) -> MergeResult:
    return MergeResult(None, str(request.into), None, None, None, False, (), doubts, report)
