"""materialize.json: what a finished folder holds, to the byte; no time and no place of a machine, so that made again it
is the same.

| key | what |
|---|---|
| `plan`, `recipe` | the digest of the whole plan; base, adapters, options, tools |
| `tensors` | every stored tensor: file, dtype, shape, sha256 |
| `changes` | every weight that adapters change: the module's name and the sums of intended and realised ΔW |
| `files` | every other file: size, sha256 |
| `digest` | of all of this |
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import astuple, dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from engine.errors import BaseError, WrongBytesError
from engine.format.header import BITS
from engine.materialize.config import as_json
from engine.materialize.recipe import canonical_digest
from engine.materialize.sums import Sums

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from engine.materialize.execute import Written
    from engine.materialize.plan import Plan

MANIFEST = "materialize.json"
SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Manifest:
    """What materialize.json says."""

    plan: str
    recipe: Mapping[str, Any]
    tensors: Mapping[str, Mapping[str, Any]]
    changes: Mapping[str, tuple[str, Sums]]
    files: Mapping[str, Mapping[str, Any]]


def manifest_of(planned: Plan, done: Sequence[Written]) -> Manifest:
    """For a plan that is carried out."""
    written = {one.name: one for one in done}
    tensors = {
        planned.names[task.name][role]: {
            "file": place.file.name,
            "dtype": place.dtype,
            "shape": list(place.shape),
            "sha256": written[task.name].digests[role],
        }
        for task in planned.tasks
        for role, place in task.target.parts.items()
    }
    changes = {task.name: (task.module, written[task.name].sums) for task in planned.tasks if task.changes}
    documents = {
        name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in planned.documents.items()
    }
    copied = {one.name: {"size": one.size, "sha256": one.sha256} for one in planned.companions}
    return Manifest(planned.digest, planned.recipe, tensors, changes, {**documents, **copied})


def rendered(manifest: Manifest) -> bytes:
    """The bytes of materialize.json; equal manifests have equal bytes."""
    changes = {name: {"module": module, "sums": astuple(sums)} for name, (module, sums) in manifest.changes.items()}
    content = {
        "schema": SCHEMA,
        "plan": manifest.plan,
        "recipe": manifest.recipe,
        "tensors": dict(sorted(manifest.tensors.items())),
        "changes": dict(sorted(changes.items())),
        "files": dict(sorted(manifest.files.items())),
    }
    return as_json({**content, "digest": canonical_digest(content)})


def read_manifest(folder: Path) -> Manifest:
    """Raises BaseError where there is none, WrongBytesError where it is not as it was written."""
    file = folder / MANIFEST
    try:
        content = file.read_bytes()
    except OSError as error:
        raise BaseError(file, f"cannot be read: {error.strerror}; was the folder made by materialize?") from error
    try:
        manifest = _parsed(json.loads(content))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise WrongBytesError([(MANIFEST, "what materialize wrote", "something else")]) from None
    if rendered(manifest) != content:
        expected, actual = (hashlib.sha256(one).hexdigest() for one in (rendered(manifest), content))
        raise WrongBytesError([(MANIFEST, expected, actual)])
    return manifest


def _parsed(value: Mapping[str, Any]) -> Manifest:
    """Raises ValueError, or what else the wrong type in a place raises."""
    tensors, files = value["tensors"], value["files"]
    for row in tensors.values():
        sizes = all(type(one) is int and one >= 0 for one in row["shape"])
        if not sizes or row["dtype"] not in BITS or PurePath(row["file"]).name != row["file"]:
            raise ValueError(row)
    for name, row in files.items():
        if PurePath(name).is_absolute() or ".." in PurePath(name).parts or type(row["size"]) is not int:
            raise ValueError(name)
    changes = {name: (row["module"], Sums(*row["sums"])) for name, row in value["changes"].items()}
    return Manifest(value["plan"], value["recipe"], tensors, changes, files)
