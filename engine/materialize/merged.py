"""A base checkpoint with adapters in its weights, as a folder that stands alone."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from engine.format.folder import fresh_folder
from engine.materialize.files import opened, write
from engine.materialize.plan import plan
from engine.materialize.pool import threads
from engine.materialize.report import Materialized, told

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from engine.materialize.execute import Written
    from engine.materialize.plan import Plan
    from engine.materialize.request import Request
    from engine.materialize.shards import Shard

    Progress = Callable[[int, int, str], None]


def materialize(
    request: Request,
    to: Path,
    *,
    jobs: int | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Materialized:
    """Write the checkpoint that `request` describes to the new folder `to`."""
    del resume
    planned = plan(request, to)
    with fresh_folder(to):
        for shard in planned.shards:
            _reserve(shard)
        done = _run(planned, jobs, progress)
        _finish(planned)
    return Materialized(to, _tensors(planned, done), told(done))


def _reserve(shard: Shard) -> None:
    with opened(shard.file, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as descriptor:
        write(descriptor, memoryview(shard.header), 0)
        os.ftruncate(descriptor, shard.size)


def _run(planned: Plan, jobs: int | None, progress: Progress | None) -> list[Written]:
    done: list[Written] = []
    for one in threads(planned.tasks, jobs=jobs):
        done.append(one)
        if progress is not None:
            progress(len(done), len(planned.tasks), one.name)
    return done


def _finish(planned: Plan) -> None:
    if len(planned.shards) > 1:
        weight_map = {name: shard.file.name for shard in planned.shards for name in shard.places}
        size = sum(place.size for shard in planned.shards for place in shard.places.values())
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(weight_map.items()))}
        _write_json(planned.folder / "model.safetensors.index.json", index)
    config = {key: value for key, value in {**planned.checkpoint.config, **planned.config}.items() if value is not None}
    _write_json(planned.folder / "config.json", config)


def _write_json(file: Path, value: object) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _tensors(planned: Plan, done: Sequence[Written]) -> dict[str, dict[str, object]]:
    digests = {one.name: one.digests for one in done}
    return {
        place_name: {
            "file": place.file.name,
            "dtype": place.dtype,
            "shape": list(place.shape),
            "sha256": digests[task.name][role],
        }
        for task in planned.tasks
        for role, place in task.target.parts.items()
        for place_name in [task.name if not role else f"{task.name}.{role}"]
    }
