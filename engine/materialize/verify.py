"""A finished folder proven from files: its own bytes, and against the base and the adapters it was made from."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from dataclasses import dataclass
from math import isclose
from typing import TYPE_CHECKING, Any, cast

import torch

from engine.errors import BaseError, OptionError, UnreadableError, WrongBytesError
from engine.materialize.changes.experts import stack_of
from engine.materialize.encodings import ENCODINGS
from engine.materialize.folder.contents import strangers, wrong_contents
from engine.materialize.folder.manifest import MANIFEST, read_manifest
from engine.materialize.plan import plan
from engine.materialize.report import told
from engine.materialize.request import Request
from engine.materialize.stored.blocks import row_blocks
from engine.materialize.stored.hashing import place_digest
from engine.materialize.stored.place import PLAIN
from engine.materialize.tasks.execute import Written, measured_again, rounding_of
from engine.materialize.tasks.operands import operands
from engine.materialize.tasks.pool import threads
from engine.materialize.tasks.sums import NOTHING, Sums, measured
from engine.model.memory.tensordata import DTYPES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from engine.materialize.changes.change import Rows
    from engine.materialize.folder.contents import Wrong
    from engine.materialize.folder.manifest import Manifest
    from engine.materialize.plan import Plan
    from engine.materialize.request import Source
    from engine.materialize.tasks.stacks import Stacks
    from engine.materialize.tasks.task import Task

_NEAR = 1e-3
"""How far shares and errors may lie from those of the manifest: another machine sums in another order."""


@dataclass(frozen=True, slots=True)
class Verified:
    """A folder whose every byte is as it was written; `extra` are files beside, which no loader takes for its own.

    `report` is that of materialize, measured again; None where base and adapters were not given.
    """

    path: Path
    tensors: int
    files: int
    recipe: Mapping[str, Any]
    extra: tuple[str, ...]
    report: Mapping[str, Any] | None


def verify(
    folder: Path, base: Path | None = None, sources: Sequence[Source] = (), *, jobs: int | None = None
) -> Verified:
    """Hash every byte of `folder`. With `base`, also read what it was made of: tensors that no adapter changes must
    have the source's bytes, and of every other one is measured how much of ΔW is in the file.

    Raises WrongBytesError with everything that is not as it was written; BaseError for a folder without manifest or a
    base that is another, UnreadableError for an adapter that is another, OptionError for another number of them.
    """
    manifest = read_manifest(folder)
    if wrong := wrong_contents(folder, manifest, jobs=jobs):
        raise WrongBytesError(wrong)
    report = None if base is None else _measured_again(folder, manifest, base, sources, jobs)
    extra = tuple(strangers(folder, manifest))
    return Verified(folder, len(manifest.tensors), len(manifest.files) + 1, manifest.recipe, extra, report)


def _measured_again(
    folder: Path, manifest: Manifest, base: Path, sources: Sequence[Source], jobs: int | None
) -> dict[str, Any]:
    planned = plan(_request(manifest, base, sources), folder)
    _hold_sources(planned, manifest)
    _hold_layout(planned, manifest)
    done = list(threads(planned.tasks, jobs=jobs, work=_compared))
    if wrong := [one for made in done for one in _wrong(planned, manifest, made)]:
        raise WrongBytesError(wrong)
    return told(planned, done)


def _request(manifest: Manifest, base: Path, sources: Sequence[Source]) -> Request:
    recipe = manifest.recipe
    if len(sources) != len(recipe["adapters"]):
        raise OptionError(f"the folder was made from {len(recipe['adapters'])} adapters, {len(sources)} are given")
    options = {key: recipe[key] for key in ("dtype", "quantize", "rounding", "shard_size")}
    nested = recipe["double_quantize"] is not False
    seed = recipe["seed"] or 0
    return Request(base=base, sources=tuple(sources), seed=seed, lossy=True, double_quantize=nested, **options)


def _hold_sources(planned: Plan, manifest: Manifest) -> None:
    """What is given must be what the folder was made from, or a difference would say nothing of the folder."""
    expected, found = manifest.recipe["base"]["fingerprint"], planned.recipe["base"]["fingerprint"]
    if expected != found:
        raise BaseError(planned.request.base, f"is not the folder's base: expected {expected}, found {found}")
    pairs = zip(planned.request.sources, manifest.recipe["adapters"], planned.recipe["adapters"], strict=True)
    for source, then, now in pairs:
        for key in ("tensors_digest", "config_sha256", "weight"):
            if then[key] != now[key]:
                reason = f"is not the folder's adapter: {key} {then[key]} expected, found {now[key]}"
                raise UnreadableError(source.path, reason)


def _hold_layout(planned: Plan, manifest: Manifest) -> None:
    """The manifest must place what the plan places, or tensors would be compared that are not each other's."""
    places = {
        planned.names[task.name][role]: (place.file.name, place.dtype, list(place.shape))
        for task in planned.tasks
        for role, place in task.target.parts.items()
    }
    found = {name: (row["file"], row["dtype"], row["shape"]) for name, row in manifest.tensors.items()}
    changed = {task.name for task in planned.tasks if task.changes}
    if places != found or changed != set(manifest.changes):
        raise WrongBytesError([(MANIFEST, "the tensors that base and adapters give", "others")])


def _compared(task: Task, stacks: Stacks) -> Written:
    """The task as `execute` would tell of it: digests of what its bytes should be where they follow from the source
    alone, sums from the result as it lies there.
    """
    with torch.no_grad():
        if task.copies:
            digests = {role: place_digest(part) for role, part in task.source.parts.items()}
            return Written(task.name, task.module, digests, NOTHING)
        if task.changes:
            return Written(task.name, task.module, {}, _sums(task, stacks))
        return Written(task.name, task.module, _cast(task), NOTHING)


def _sums(task: Task, stacks: Stacks) -> Sums:
    into = ENCODINGS[task.target.encoding]
    with ExitStack() as stack:
        source = operands(task, stack.enter_context(ENCODINGS[task.source.encoding].reading(task.source)), stacks)
        if into.packed:
            return measured_again(task, source, stack.enter_context(into.packed(task.target)))
        result, sums = stack.enter_context(into.reading(task.target)), NOTHING
        for start, stop in row_blocks(*source.matrix):
            W = source.weight(start, stop)
            D = cast("Rows", source.change)(start, stop, W)
            sums += measured(W, D, W + D, result.rows(start, stop).to(DTYPES[task.target.numbers]))
    return sums


def _cast(task: Task) -> dict[str, str]:
    """Nothing for a packed target, whose bytes depend on more than its numbers."""
    if task.target.encoding != PLAIN:
        return {}
    digest, rounded = hashlib.sha256(), rounding_of(task)
    with ENCODINGS[task.source.encoding].reading(task.source) as reader:
        source = operands(task, reader, stack_of)
        for start, stop in row_blocks(*source.matrix):
            stored = rounded(source.weight(start, stop), start, DTYPES[task.target.numbers])
            digest.update(stored.view(torch.uint8).numpy().data)
    return {"": digest.hexdigest()}


def _wrong(planned: Plan, manifest: Manifest, made: Written) -> Iterator[Wrong]:
    for role, digest in made.digests.items():
        name = planned.names[made.name][role]
        if (found := manifest.tensors[name]["sha256"]) != digest:
            yield f"{name}, to which nothing is added", digest, found
    if made.name in manifest.changes:
        then, now = manifest.changes[made.name][1], made.sums
        if not _alike(then, now):
            yield f"{made.name}: kept share of its change", f"{then.kept_share:.4f}", f"{now.kept_share:.4f}"


def _alike(then: Sums, now: Sums) -> bool:
    near = ("cosine", "relative_error", "swallowed_share", "kept_share")
    return isclose(then.intended, now.intended, rel_tol=_NEAR) and all(
        isclose(getattr(then, name), getattr(now, name), abs_tol=_NEAR) for name in near
    )
