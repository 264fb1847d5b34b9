"""A base checkpoint with adapters in its weights, as a folder that stands alone."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from engine.errors import NoSpaceError
from engine.materialize.folder.companions import copy_companion
from engine.materialize.folder.durable import sync_tree, syncing
from engine.materialize.folder.identity import check_unchanged
from engine.materialize.folder.journal import begin, finished, note
from engine.materialize.folder.manifest import MANIFEST, manifest_of, rendered
from engine.materialize.folder.staging import claimed, emptied, publish, staging
from engine.materialize.plan import plan
from engine.materialize.quantising.surviving import hold_surviving
from engine.materialize.report import Materialized, told
from engine.materialize.stored.files import claim_blocks, opened, write
from engine.materialize.tasks.pool import threads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from engine.materialize.folder.manifest import Manifest
    from engine.materialize.folder.shards import Shard
    from engine.materialize.folder.staging import Staging
    from engine.materialize.plan import Plan
    from engine.materialize.request import Request
    from engine.materialize.tasks.execute import Written

    Progress = Callable[[int, int, str], None]

_TOLD = 1 << 10
"""Bytes that journal and manifest need for one tensor."""


def materialize(
    request: Request,
    to: Path,
    *,
    jobs: int | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Materialized:
    """Write the checkpoint that `request` describes to the new folder `to`, which is there whole or not at all.

    `resume` goes on where a killed run of the same plan stopped, if there is one. `progress` is called in this thread
    with tensors done, tensors in all, and the last one's name.

    Raises RefusedError with everything that does not fit, UnreadableError for a file that is wrong or changes
    meanwhile, DestinationError (NoSpaceError) where `to` is taken, is being written, or cannot be.
    """
    place = staging(to)
    planned = plan(request, place.files)
    with claimed(place):
        done = _begun(planned, place, jobs, resume=resume)
        done += _run(planned, place, done, jobs, progress)
        hold_surviving(request, planned.tasks, done)
        manifest = manifest_of(planned, done)
        _finish(planned, manifest)
        check_unchanged(planned.identities)
        sync_tree(place.files)
        publish(place)
    return Materialized(place.to, manifest.tensors, told(planned, done))


def _begun(planned: Plan, place: Staging, jobs: int | None, *, resume: bool) -> list[Written]:
    """What is finished already. Afterwards every file has its header and its whole size."""
    done = finished(place.journal, planned.key, planned.tasks, jobs=jobs) if resume else None
    if done is None:
        emptied(place)
        place.files.mkdir()
    _check_room(planned, place)
    for shard in planned.shards:
        _reserve(shard)
    if done is None:
        begin(place.journal, planned.key)
    return done or []


def _check_room(planned: Plan, place: Staging) -> None:
    there = sum(shard.file.stat().st_blocks * 512 for shard in planned.shards if shard.file.exists())
    free, needed = shutil.disk_usage(place.home).free, planned.size + _TOLD * len(planned.tasks) - there
    if needed > free:
        raise NoSpaceError(place.to, needed=needed, free=free)


def _reserve(shard: Shard) -> None:
    with opened(shard.file, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW) as descriptor:
        write(descriptor, memoryview(shard.header), 0)
        os.ftruncate(descriptor, shard.size)
        claim_blocks(descriptor, shard.size)


def _run(
    planned: Plan, place: Staging, done: Sequence[Written], jobs: int | None, progress: Progress | None
) -> list[Written]:
    names = {one.name for one in done}
    tasks = {task.name: task for task in planned.tasks if task.name not in names}
    made: list[Written] = []
    with opened(place.journal, os.O_WRONLY | os.O_APPEND) as journal, syncing() as wrote:
        for one in threads(list(tasks.values()), jobs=jobs):
            note(journal, one)
            made.append(one)
            for part in tasks[one.name].target.parts.values():
                wrote(part.file, part.size)
            if progress is not None:
                progress(len(done) + len(made), len(planned.tasks), one.name)
    return made


def _finish(planned: Plan, manifest: Manifest) -> None:
    for name, content in {**planned.documents, MANIFEST: rendered(manifest)}.items():
        (planned.folder / name).write_bytes(content)
    for one in planned.companions:
        copy_companion(one, planned.folder)
