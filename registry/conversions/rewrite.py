"""Rewrite: an adapter becomes one that a serving engine loads with the same function, in a folder or as a version."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import RefusedError
from engine.format.adapter import CONFIG_NAME, WEIGHTS_NAME, read_adapter
from registry.basemodels import bases
from registry.basemodels.basecheck import base_facts
from registry.conversions.convert import copy_file, require_free, sync_tree
from registry.conversions.rewritten import RewriteResult
from registry.errors import FindingsError
from registry.files.checkout import put
from registry.files.intake import scan
from registry.files.manifest import manifest_bytes
from registry.files.scratch import scratch_beside
from registry.files.transfer import hash_file
from registry.findings.examine import named_base
from registry.merges.ingredients import fetch
from registry.operations import rewrite_adapter, rewrite_versions
from registry.origins.provenance import PARENTS, claims, first
from registry.push import PushRequest, push
from registry.records.draft import Parent, RecipeDraft
from registry.results import FileEntry
from registry.values.digests import digest_of
from registry.values.progress import silent
from registry.values.refs import is_path

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.compat.engines.table import EngineTarget
    from engine.format.facts import BaseFacts
    from registry.files.intake import Intake
    from registry.handle import Handle
    from registry.merges.ingredients import MergeParent
    from registry.operations import Rewriting
    from registry.origins.provenance import Claim
    from registry.results import PushResult
    from registry.values.progress import Progress
    from registry.values.refs import Name


@dataclass(frozen=True, slots=True, kw_only=True)
class RewriteRequest:
    """What a caller wants rewritten, for which engine, and where to: a new folder, or the next version of a name.

    `source` and `initial` are references or paths, `base` is a base's name or path; without it a version's own counts,
    else what the config names, where that is known. `rank` is the least rank of every module afterwards.
    """

    source: str
    target: EngineTarget
    to: Path | None = None
    into: Name | None = None
    base: str | None = None
    rank: int | None = None
    initial: str | None = None
    aliases: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    message: str | None = None
    actor: str | None = None
    given: Mapping[str, Claim] = field(default_factory=dict)
    surroundings: Mapping[str, Claim] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Source:
    """An adapter on disk: its folder, what of it makes a version, and what the catalog knows where it is a version."""

    folder: Path
    intake: Intake
    version: MergeParent | None = None
    base: BaseFacts | None = None


def rewrite(handle: Handle, request: RewriteRequest, *, progress: Progress = silent) -> RewriteResult:
    """Rewrite into a folder that appears whole or not at all, or publish with its parent and recipe recorded.

    Raises FindingsError with all that cannot be rewritten, or where a check-in rule refuses the new version;
    ConflictError where the folder is taken, engine.errors.OptionError for a release outside the engine's table.
    """
    if request.to is not None:
        destination = Path(os.path.abspath(request.to))  # noqa: PTH100 (Path.absolute keeps `..`)
        require_free(destination)
    source = _source(handle, request.source)
    source = replace(source, base=_base(handle, request, source))
    initial = None if request.initial is None else _source(handle, request.initial)
    label = f"rewriting {request.source}"
    progress(label, 0, 1)
    if request.into is not None:
        with handle.store.staging() as staging:
            out = staging.folder / "rewritten"
            out.mkdir()
            done = _fill(out, source, initial, request)
            progress(label, 1, 1)
            wanted = _publication(request, request.into, source, initial, done=done, out=out)
            return _published(push(handle, wanted, progress=progress), request, source, done)
    with scratch_beside(destination, mode=0o777) as scratch:
        done = _fill(scratch, source, initial, request)
        sync_tree(scratch)
        put(scratch, destination)
    progress(label, 1, 1)
    return RewriteResult(path=destination, **_common(request, source, done))


def _source(handle: Handle, text: str) -> _Source:
    if is_path(text):
        folder = Path(text).expanduser()
        return _Source(folder, scan(folder))
    (version,) = fetch(handle, [handle.ref(text)])
    # all that was published travels along, also what an --include had added
    return _Source(version.path, scan(version.path, ("**",)), version)


def _base(handle: Handle, request: RewriteRequest, source: _Source) -> BaseFacts | None:
    """What is known of the base: the given one (NotFoundError), else the version's, else the one in the config."""
    if request.base is not None:
        return base_facts(handle, request.base)
    if source.version is not None:
        name = source.version.base.name
    else:
        name = named_base(read_adapter(source.folder)) if handle.settings.has_catalog else None
    if name is None:
        return None
    with handle.database.reading() as session:
        row = bases.find(session, name)
        return None if row is None else bases.facts_of(row)


def _fill(out: Path, source: _Source, initial: _Source | None, request: RewriteRequest) -> Rewriting:
    """The rewritten adapter and copies of all other files."""
    try:
        done = rewrite_adapter(
            source.folder,
            out,
            target=request.target,
            base=source.base,
            files=[file.path for file in source.intake.files],
            initial=None if initial is None else initial.folder,
            rank=request.rank,
        )
    except RefusedError as refused:
        raise FindingsError(
            request.source, [replace(finding, target=request.source) for finding in refused.findings]
        ) from None
    for file in source.intake.files:
        if file.path not in (CONFIG_NAME, WEIGHTS_NAME):
            with file.open() as descriptor:
                copy_file(descriptor, out / file.path)
    return done


def _publication(
    request: RewriteRequest, into: Name, source: _Source, initial: _Source | None, *, done: Rewriting, out: Path
) -> PushRequest:
    parent = source.version
    licence = None if parent is None else parent.licence
    place = Path(request.base).expanduser().absolute() if request.base is not None and is_path(request.base) else None
    return PushRequest(
        path=out,
        name=into,
        aliases=request.aliases,
        tags=request.tags,
        message=request.message,
        base=None if place is not None else request.base or (None if parent is None else parent.base.name),
        base_path=place,
        parents=() if parent is None else (Parent(parent.digest, "converted_from", None, parent.version_id),),
        include=("**",),
        recipe=RecipeDraft("rewrite", _recipe(request, source, initial, done)),
        actor=request.actor,
        given=first(request.given, claims({"licence": licence}, PARENTS)),
        surroundings=request.surroundings,
    )


def _published(pushed: PushResult, request: RewriteRequest, source: _Source, done: Rewriting) -> RewriteResult:
    common = _common(request, source, done)
    unknown = () if source.version else (f"{request.source} is no version here: no parent was recorded",)
    return RewriteResult(
        ref=pushed.ref,
        name=pushed.name,
        version=pushed.version,
        digest=pushed.digest,
        tensors_digest=pushed.tensors_digest,
        created=pushed.created,
        notes=pushed.notes + unknown,
        **{**common, "findings": (*common["findings"], *pushed.findings)},
    )


def _common(request: RewriteRequest, source: _Source, done: Rewriting) -> dict[str, Any]:
    return {
        "target": str(request.target),
        "rewrites": done.rewrites,
        "rank": done.rank,
        "rounded": done.rounded,
        "largest_change": done.largest_change,
        "left_out": () if source.version else source.intake.left_out,
        "findings": tuple(finding for finding in done.findings if finding.rule.startswith(request.target.engine.name)),
    }


def _recipe(request: RewriteRequest, source: _Source, initial: _Source | None, done: Rewriting) -> dict[str, Any]:
    """Everything that determines the result: what it was made from, by digest, and what was done to it."""
    return {
        "schema": 1,
        "method": "rewrite",
        "for": str(request.target),
        "limits": {name: value for name, value in sorted(request.target.limits.items()) if value is not None},
        "rewrites": list(done.rewrites),
        "rank": request.rank,
        "parent": _digest(source),
        "initial": None if initial is None else _digest(initial),
        "tool": rewrite_versions(),
    }


def _digest(source: _Source) -> str:
    """The digest that names the source: a version's, or the one that its folder would have as a version."""
    if source.version is not None:
        return source.version.digest
    entries = []
    for file in source.intake.files:
        with file.open() as descriptor:
            digest, size = hash_file(descriptor)
        entries.append(FileEntry(file.path, digest, size))
    return digest_of(manifest_bytes(tuple(sorted(entries, key=lambda entry: entry.path))))
