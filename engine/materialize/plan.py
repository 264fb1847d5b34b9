"""The whole plan of a materialised checkpoint, from headers: files, offsets, tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.materialize.checkpoint import read_checkpoint
from engine.materialize.encodings import ENCODINGS
from engine.materialize.matching import outputs
from engine.materialize.place import PLAIN, Stored
from engine.materialize.shards import shards
from engine.materialize.task import Task

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any

    from engine.materialize.checkpoint import Checkpoint
    from engine.materialize.outputs import Output
    from engine.materialize.place import Place
    from engine.materialize.request import Request
    from engine.materialize.shards import Shard


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be written into `folder`: `shards` with their offsets, `tasks` that fill them, config.json's keys."""

    request: Request
    folder: Path
    checkpoint: Checkpoint
    shards: tuple[Shard, ...]
    tasks: tuple[Task, ...]
    config: Mapping[str, Any]

    @property
    def size(self) -> int:
        """Bytes of all weight files."""
        return sum(shard.size for shard in self.shards)


def plan(request: Request, folder: Path) -> Plan:
    """Reads headers only. Raises RefusedError with everything that does not fit, and the errors of unreadable files."""
    checkpoint = read_checkpoint(request.base)
    found = outputs(checkpoint, request.sources)
    described = [_described(output, request) for output in found.tensors]
    files = shards(folder, [list(parts.values()) for parts in described], request.shard_size)
    places = {name: place for shard in files for name, place in shard.places.items()}
    tasks = tuple(_task(output, parts, places, request) for output, parts in zip(found.tensors, described, strict=True))
    return Plan(request, folder, checkpoint, files, tasks, found.config)


def _described(output: Output, request: Request) -> Mapping[str, tuple[str, str, tuple[int, ...]]]:
    """The tensors that store an output: role → (name, dtype, shape)."""
    source = output.source
    return ENCODINGS[PLAIN].parts(output.name, request.dtype or source.numbers, source.shape)


def _task(
    output: Output,
    parts: Mapping[str, tuple[str, str, tuple[int, ...]]],
    places: Mapping[str, Place],
    request: Request,
) -> Task:
    held = {role: places[name] for role, (name, _, _) in parts.items()}
    target = Stored(PLAIN, output.source.shape, held, output.source.fold)
    seed = request.seed if request.rounding == "stochastic" else None
    return Task(output.name, output.source, target, output.changes, seed, output.module)
