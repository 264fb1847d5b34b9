"""The keyword arguments of `Registry.push` and `Registry.merge`, as texts, become requests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict, get_args

from registry.draft import Relation
from registry.errors import UsageError
from registry.provenance import FLAG, claims
from registry.refs import is_path, parse_alias

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from registry.handle import Handle
    from registry.merge import MergeRequest
    from registry.progress import Progress
    from registry.provenance import Claim
    from registry.push import PushRequest


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


class MergeOptions(Labels, total=False):
    """What a merge may be given besides its parents and name."""

    weights: Sequence[float] | None
    combination: str
    rank: int | Literal["max"] | None
    dtype: str | None
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
    from registry.merge import MergeRequest

    weights, surroundings = options.get("weights"), handle.settings.surroundings
    return MergeRequest(
        refs=tuple(handle.ref(ref) for ref in refs),
        into=handle.name(into),
        method=options.get("combination", "svd"),
        weights=None if weights is None else tuple(map(float, weights)),
        rank=options.get("rank"),
        dtype=options.get("dtype"),
        aliases=tuple(parse_alias(alias) for alias in options.get("aliases", ())),
        tags=options.get("tags") or {},
        metrics=options.get("metrics") or {},
        message=options.get("message"),
        allow=tuple(options.get("allow", ())),
        assume_same_base=options.get("assume_same_base", False),
        dry_run=options.get("dry_run", False),
        actor=handle.settings.actor,
        given=_given(options),
        # The data and licence that a project trains with are not those of a merge.
        surroundings={name: claim for name, claim in surroundings.items() if name not in ("data_digest", "licence")},
    )


def _given(options: Labels, data_digest: str | None = None) -> dict[str, Claim]:
    said = {"git_commit": options.get("git_commit"), "run_id": options.get("run_id"), "licence": options.get("licence")}
    return claims({**said, "data_digest": data_digest}, FLAG)
