"""Merge: versions become a new version, with its parents, recipe and report recorded."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from engine.format.base import read_base
from registry.errors import UsageError
from registry.merges.combination import Combination
from registry.merges.ingredients import base_doubts, check_weights, fetch, licences
from registry.merges.weighting import Weighting
from registry.operations import Ingredient, merge_adapters, tool_versions
from registry.origins.provenance import PARENTS, claims, first
from registry.push import PushRequest, check_allowed, push
from registry.records.draft import Parent, RecipeDraft
from registry.results import MergeResult, PushResult
from registry.values.labeltexts import check_texts
from registry.values.progress import silent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from engine.compat.finding import Finding
    from registry.handle import Handle
    from registry.merges.ingredients import MergeParent
    from registry.origins.provenance import Claim
    from registry.values.progress import Progress
    from registry.values.refs import Name, Ref


SCHEMA = 1
"""Of the recipe; `rerun` repeats no other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeRequest:
    """What a caller wants merged. `weights` are rows of one weight a parent: a result each, in this order; none is one
    result with 1/n each. `base` is a checkpoint folder, for parents
    whose ΔW depends on base weights; `jobs` None is the engine's own number of threads.
    """

    refs: tuple[Ref, ...]
    into: Name
    combination: Combination = field(default_factory=Combination)
    weights: tuple[tuple[Weighting, ...], ...] = ()
    aliases: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    message: str | None = None
    allow: tuple[str, ...] = ()
    assume_same_base: bool = False
    dry_run: bool = False
    base: Path | None = None
    jobs: int | None = None
    device: str = "cpu"
    actor: str | None = None
    given: Mapping[str, Claim] = field(default_factory=dict)
    surroundings: Mapping[str, Claim] = field(default_factory=dict)


def merge(handle: Handle, request: MergeRequest, *, progress: Progress = silent) -> list[MergeResult]:
    """Merge and publish, a version for each row of weights; in a dry run, merge and tell.

    Raises FindingsError where the parents' bases differ, engine.errors.RefusedError for what a merge cannot carry
    through, UsageError or engine.errors.OptionError for options that fit nothing.
    """
    _check(request)
    rows = request.weights or ((Weighting(1 / max(len(request.refs), 1)),) * len(request.refs),)
    for row in rows:
        check_weights(row, len(request.refs))
    parents = fetch(handle, request.refs)
    with handle.database.reading() as session:
        doubts = base_doubts(session, parents, assume_same=request.assume_same_base)
    combined = licences(parents, request.allow)
    doubts += combined.findings
    request = replace(request, given=first(request.given, claims({"licence": combined.licence}, PARENTS)))
    with handle.store.staging() as staging:
        outs = [staging.folder / f"merged-{place}" for place in range(len(rows))]
        reports = merge_adapters(
            [Ingredient(one.path, weight, one.tensors_digest) for one, weight in zip(parents, rows[0], strict=True)],
            request.combination,
            rows,
            outs,
            base=request.base,
            jobs=request.jobs,
            device=request.device,
            progress=lambda done, total, name: progress(f"merging {name}", done, total),
        )
        if request.dry_run:
            return [_unpublished(request, _told(report, parents), doubts) for report in reports]
        requests = [
            _publication(request, parents, row, report, out)
            for row, report, out in zip(rows, reports, outs, strict=True)
        ]
        return [_published(push(handle, one, progress=progress), one, doubts) for one in requests]


def _check(request: MergeRequest) -> None:
    check_texts(request.tags, request.metrics, request.message)
    check_allowed(request.allow)
    if len(request.weights) > 1 and request.aliases:
        raise UsageError("an alias names one version, and a grid of weights makes several: set it afterwards")
    if len(request.weights) > 1 and (request.combination.energy or request.combination.budget):
        raise UsageError("a grid of weights takes a rank: energy and budget choose other ranks for each row")


def _unpublished(request: MergeRequest, report: Mapping[str, Any], doubts: tuple[Finding, ...]) -> MergeResult:
    return MergeResult(None, str(request.into), None, None, None, False, (), doubts, report)


def _published(published: PushResult, request: PushRequest, doubts: tuple[Finding, ...]) -> MergeResult:
    return MergeResult(
        ref=published.ref,
        name=published.name,
        version=published.version,
        digest=published.digest,
        tensors_digest=published.tensors_digest,
        created=published.created,
        left_out=published.left_out,
        findings=(*doubts, *published.findings),
        report=request.report or {},
        newest=published.newest,
        notes=published.notes,
    )


def _told(report: Mapping[str, Any], parents: Sequence[MergeParent]) -> dict[str, Any]:
    """The report with each parent named, and without the spectra, which are stored with the modules."""
    named = [
        {"ref": parent.ref, "digest": parent.digest, **part}
        for parent, part in zip(parents, report["parents"], strict=True)
    ]
    modules = [{key: value for key, value in one.items() if key != "spectrum"} for one in report["per_module"]]
    return {**report, "parents": named, "per_module": modules}


def _publication(
    request: MergeRequest,
    parents: Sequence[MergeParent],
    row: Sequence[Weighting],
    report: Mapping[str, Any],
    out: Path,
) -> PushRequest:
    edges = [
        Parent(parent.digest, "merged_from", weight.default, parent.version_id)
        for parent, weight in zip(parents, row, strict=True)
    ]
    named = next((parent.base.name for parent in parents if parent.base.name), None)
    return PushRequest(
        path=out,
        name=request.into,
        aliases=request.aliases,
        tags=request.tags,
        metrics=request.metrics,
        message=request.message,
        base=named,
        parents=tuple(edges),
        allow=request.allow,
        report=_told(report, parents),
        recipe=RecipeDraft(request.combination.method, _recipe(request, parents, row, report)),
        spectra={module["name"]: module["spectrum"] for module in report["per_module"] if module["spectrum"]},
        actor=request.actor,
        given=request.given,
        surroundings=request.surroundings,
    )


def _recipe(
    request: MergeRequest, parents: Sequence[MergeParent], row: Sequence[Weighting], report: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything that determines the result: options with the values the method used, parents by digest, the base whose
    weights were read, versions of the tools.
    """
    used = {"lambda" if name == "scale" else name: value for name, value in report["options"].items()}
    return {
        "schema": SCHEMA,
        "method": request.combination.method,
        "parameters": {**request.combination.parameters(), **used},
        "base": None if request.base is None else read_base(request.base).fingerprint,
        "parents": [
            {"digest": parent.digest, "weight": weight.as_json()} for parent, weight in zip(parents, row, strict=True)
        ],
        "seed": used.get("seed"),
        "tool": tool_versions(),
    }
