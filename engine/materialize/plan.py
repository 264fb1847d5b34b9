"""The whole plan of a materialised checkpoint, from headers: files, offsets, tasks."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from engine.compat.finding import Finding
from engine.errors import BaseError, RefusedError
from engine.materialize.folder.companions import companions
from engine.materialize.folder.documents import documents_of, model_folder, resized, stem
from engine.materialize.folder.identity import source_identities
from engine.materialize.folder.shards import shards
from engine.materialize.matching import outputs
from engine.materialize.quantising.quantise import forms
from engine.materialize.recipe import canonical_digest, recipe_of
from engine.materialize.request import checked
from engine.materialize.stored.checkpoint import read_checkpoint
from engine.materialize.tasks.task import Task
from engine.merge.dtypes import SIZES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from engine.materialize.folder.companions import Companion
    from engine.materialize.folder.identity import Identity
    from engine.materialize.folder.shards import Shard
    from engine.materialize.outputs import Headed, Output
    from engine.materialize.quantising.forms import Form
    from engine.materialize.request import Request
    from engine.materialize.stored.place import Place


@dataclass(frozen=True)
class Plan:
    """What will be written into `folder`: `shards` with their offsets, `tasks` that fill them, whole `documents`
    and `companions` copied. `headed` tells of a class that is not the base's.

    `names` are those of the tensors that a task writes, by their role.
    """

    request: Request
    folder: Path
    shards: tuple[Shard, ...]
    tasks: tuple[Task, ...]
    names: Mapping[str, Mapping[str, str]]
    documents: Mapping[str, bytes]
    companions: tuple[Companion, ...]
    recipe: Mapping[str, Any]
    identities: Mapping[Path, Identity]
    headed: Headed | None = None

    @property
    def size(self) -> int:
        """Bytes of all files."""
        small = sum(map(len, self.documents.values())) + sum(one.size for one in self.companions)
        return sum(shard.size for shard in self.shards) + small

    @cached_property
    def digest(self) -> str:
        """Of all that decides the result's bytes."""
        headers = {shard.file.name: shard.header.decode("latin-1") for shard in self.shards}
        texts = {name: content.decode("latin-1") for name, content in self.documents.items()}
        copied = {one.name: one.sha256 for one in self.companions}
        return canonical_digest({"recipe": self.recipe, "headers": headers, "documents": texts, "companions": copied})

    @property
    def key(self) -> str:
        """Of the digest and the very files that are read: what a run must share with one that it continues."""
        read = {str(file): asdict(identity) for file, identity in self.identities.items()}
        return canonical_digest({"plan": self.digest, "read": read})


def plan(request: Request, folder: Path) -> Plan:
    """Reads headers only. Raises RefusedError with everything that does not fit, and the errors of unreadable files."""
    request = checked(request)
    identities = source_identities(request)
    checkpoint = read_checkpoint(request.base)
    if not checkpoint.tensors:
        raise BaseError(request.base, "holds no tensor")
    found = outputs(checkpoint, request.sources)
    stored = forms(found, checkpoint, request)
    found = replace(found, config={**found.config, **stored.config})
    pairs = list(zip(found.tensors, stored.rows, strict=True))
    described = [form.described(output.name) for output, form in pairs]
    files = shards(folder, stem(request.base), described, request.shard_size)
    places = {name: place for shard in files for name, place in shard.places.items()}
    tasks = tuple(_task(output, form, places, request) for output, form in pairs)
    _hold_roundable(tasks)
    recipe = recipe_of(request)
    documents = documents_of(checkpoint, found, files, recipe=recipe, request=request)
    other_vocabulary = resized(checkpoint.config, found.config)
    beside = companions(model_folder(request.base), request.sources, resized=other_vocabulary)
    names = {output.name: form.names(output.name) for output, form in pairs}
    return Plan(request, folder, files, tasks, names, documents, beside, recipe, identities, found.headed)


def _task(output: Output, form: Form, places: Mapping[str, Place], request: Request) -> Task:
    target = form.placed(output.name, places)
    seed = request.seed if request.rounding == "stochastic" else None
    return Task(output.name, output.source, target, output.changes, seed, output.module, form.turned)


def _hold_roundable(tasks: Sequence[Task]) -> None:
    """Refuse to draw between neighbours in a dtype whose neighbours are not known."""
    drawn = [task for task in tasks if task.seed is not None and not task.copies]
    coarse = [task for task in drawn if task.target.numbers not in SIZES]
    if coarse:
        told = "rounding stochastic: expected a float of 16, 32 or 64 bits, found"
        rows = [f"{task.name}: {told} {task.target.numbers}" for task in coarse]
        raise RefusedError([Finding("rounding-dtype", "error", row, where="rounding") for row in rows])
