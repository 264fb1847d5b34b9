"""The keyword arguments of `Registry.push` and `Registry.merge`, as texts, become requests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_args

from registry.errors import UsageError
from registry.origins.provenance import FLAG, claims
from registry.records.draft import Relation
from registry.values.progress import silent
from registry.values.refs import is_path, parse_alias

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from registry.handle import Handle
    from registry.merges.merge import MergeRequest
    from registry.merges.mergespec import MergeSpec
    from registry.merges.weighting import Weighting
    from registry.origins.provenance import Claim
    from registry.push import PushRequest
    from registry.values.progress import Progress


class Labels(TypedDict, total=False):
    """What every new version may be given."""

    aliases: Iterable[str]
    tags: Mapping[str, str] | None
    metrics: Mapping[str, float] | None
    message: str | None
    allow: Iterable[str]
    progress: Progress | None
    git_commit: str | None
    run_id: str | None
    licence: str | None


class PushOptions(Labels, total=False):
    """What a push may be given besides its folder and name."""

    base: str | None
    parents: Iterable[str]
    relation: Relation
    include: Iterable[str]
    data_digest: str | None


class RerunOptions(TypedDict, total=False):
    """Where a merge computes, and the checkpoint that some parents need."""

    base: str | Path | None
    jobs: int | None
    device: str | None
    progress: Progress | None


class MergeOptions(Labels, RerunOptions, total=False):
    """What a merge may be given besides its parents and name."""

    spec: str | Path | None
    weights: Sequence[float | Mapping[str, Any]] | None
    weights_grid: Sequence[Sequence[float]] | None
    combination: str | None
    rank: int | Literal["max"] | None
    energy: float | None
    budget: int | str | None
    dtype: str | None
    semantics: Literal["exact", "peft"] | None
    other: Literal["average", "first", "refuse"] | None
    density: float | None
    trim: Literal["tensor", "global"] | None
    rescale: Literal["density", "none"] | None
    elect: Literal["weighted", "unweighted"] | None
    majority_sign: Literal["total", "frequency"] | None
    lambda_: float | None
    seed: int | None
    dry_run: bool
    assume_same_base: bool


def push_request(handle: Handle, path: str | Path, name: str, options: PushOptions) -> PushRequest:
    """Every text parsed; UsageError names what is malformed."""
    from registry.push import PushRequest

    relation = options.get("relation", "finetuned_from")
    if relation not in get_args(Relation):
        raise UsageError(f"relation {relation!r} is not one of {', '.join(get_args(Relation))}")
    usual = handle.settings.push
    target, base = handle.name(name), options.get("base") or usual.base
    at_path = base is not None and is_path(base)
    return PushRequest(
        path=Path(path).expanduser(),
        name=target,
        aliases=tuple(parse_alias(alias) for alias in options.get("aliases", ())),
        tags={**usual.tags, **(options.get("tags") or {})},
        metrics=options.get("metrics") or {},
        message=options.get("message"),
        base=None if at_path else base,
        base_path=Path(handle.base_name(base)) if base is not None and at_path else None,
        parents=handle.parents(options.get("parents", ()), relation),
        include=tuple(options.get("include", ())) or usual.include,
        allow=tuple(options.get("allow", ())),
        actor=handle.settings.actor,
        given=_given(options, options.get("data_digest")),
        surroundings=handle.settings.surroundings,
    )


def merge_request(handle: Handle, refs: Sequence[str], into: str, options: MergeOptions) -> MergeRequest:
    """Every text parsed; UsageError names what is malformed."""
    from registry.merges.merge import MergeRequest

    surroundings = handle.settings.surroundings
    spec, where = merge_spec(refs, options), rerun_options(options)
    return MergeRequest(
        refs=tuple(handle.ref(ref) for ref in spec.refs),
        into=handle.name(into),
        combination=spec.combination,
        weights=_rows(spec, options.get("weights_grid")),
        aliases=tuple(parse_alias(alias) for alias in options.get("aliases", ())),
        tags=options.get("tags") or {},
        metrics=options.get("metrics") or {},
        message=options.get("message"),
        allow=tuple(options.get("allow", ())),
        assume_same_base=options.get("assume_same_base", False),
        dry_run=options.get("dry_run", False),
        base=where["base"],
        jobs=where["jobs"],
        device=where["device"],
        actor=handle.settings.actor,
        given=_given(options),
        # The data and licence that a project trains with are not those of a merge.
        surroundings={name: claim for name, claim in surroundings.items() if name not in ("data_digest", "licence")},
    )


def rerun_options(options: RerunOptions) -> dict[str, Any]:
    """The arguments of `registry.merges.rerun.rerun`, paths parsed."""
    base = options.get("base")
    return {
        "base": None if base is None else Path(base).expanduser(),
        "jobs": options.get("jobs"),
        "device": options.get("device") or "cpu",
        "progress": options.get("progress") or silent,
    }


def merge_spec(refs: Sequence[str], options: MergeOptions) -> MergeSpec:
    """Parents, weights and method: from the file of `spec`, or from `refs` and the other options, never from both."""
    from registry.merges.mergespec import parse_spec, read_spec

    said: dict[str, Any] = {name: value for name in _PARAMETERS if (value := options.get(name)) is not None}
    path = options.get("spec")
    if path is not None:
        named = [*said, *(name for name in ("weights", "combination") if options.get(name) is not None)]
        if refs or named:
            also = "references" if refs else named[0].strip("_").replace("_", "-")
            raise UsageError(f"a recipe file says all of parents, weights and method: give it or {also}, not both")
        return read_spec(Path(path).expanduser())
    weights = (None,) * len(refs) if (given := options.get("weights")) is None else given
    if len(weights) != len(refs):
        raise UsageError(f"{len(weights)} weights for {len(refs)} adapters: expected one for each")
    parents = [{"ref": ref, "weight": weight} for ref, weight in zip(refs, weights, strict=True)]
    if not parents:
        raise UsageError("nothing to merge: expected at least one adapter")
    said = {name.rstrip("_"): value for name, value in said.items()}
    document = {"parents": parents, "method": options.get("combination") or "svd", "parameters": said}
    return parse_spec(document, where="merge")


def _rows(spec: MergeSpec, grid: Sequence[Sequence[float]] | None) -> tuple[tuple[Weighting, ...], ...]:
    from registry.merges.weighting import parse_weighting

    if grid is None:
        return () if spec.weights is None else (spec.weights,)
    if spec.weights is not None:
        raise UsageError("weights and a grid of weights exclude each other: give one")
    rows = tuple(tuple(parse_weighting(weight, where="weights grid") for weight in row) for row in grid)
    if not rows:
        raise UsageError("weights grid: expected at least one row")
    return rows


_PARAMETERS = (
    "rank",
    "energy",
    "budget",
    "dtype",
    "semantics",
    "other",
    "density",
    "trim",
    "rescale",
    "elect",
    "majority_sign",
    "lambda_",
    "seed",
)


def _given(options: Labels, data_digest: str | None = None) -> dict[str, Claim]:
    said = {"git_commit": options.get("git_commit"), "run_id": options.get("run_id"), "licence": options.get("licence")}
    return claims({**said, "data_digest": data_digest}, FLAG)
