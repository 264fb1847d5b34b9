"""materialize.json: what a finished folder holds, to the byte; no time and no place of a machine, so that made again it
is the same.

| key | what |
|---|---|
| `plan`, `recipe` | the digest of the whole plan; base, adapters, options, tools |
| `headed` | where the model is of another class than the base: both classes, what was brought and what was left out |
| `tensors` | every stored tensor: file, dtype, shape, sha256 |
| `changes` | every weight that adapters change: the module's name and the sums of intended and realised ΔW |
| `files` | every other file: size, sha256 |
| `digest` | of all of this |
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import astuple, dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from engine.errors import BaseError, HeaderError, WrongBytesError
from engine.format.files.header import BITS, open_regular
from engine.materialize.folder.config import as_json
from engine.materialize.recipe import canonical_digest
from engine.materialize.tasks.sums import Sums

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from engine.materialize.plan import Plan
    from engine.materialize.tasks.execute import Written

MANIFEST = "materialize.json"
SCHEMA = 1
_LARGEST = 256 << 20
_MORE_THAN_ANY_DISK = 1 << 62


@dataclass(frozen=True, slots=True)
class Manifest:
    """What materialize.json says."""

    plan: str
    recipe: Mapping[str, Any]
    tensors: Mapping[str, Mapping[str, Any]]
    changes: Mapping[str, tuple[str, Sums]]
    files: Mapping[str, Mapping[str, Any]]
    headed: Mapping[str, Any] | None = None


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
    headed = None if planned.headed is None else planned.headed.as_json()
    return Manifest(planned.digest, planned.recipe, tensors, changes, {**documents, **copied}, headed)


def rendered(manifest: Manifest) -> bytes:
    """The bytes of materialize.json; equal manifests have equal bytes."""
    changes = {name: {"module": module, "sums": astuple(sums)} for name, (module, sums) in manifest.changes.items()}
    content = {
        "schema": SCHEMA,
        "plan": manifest.plan,
        "recipe": manifest.recipe,
        **({} if manifest.headed is None else {"headed": manifest.headed}),
        "tensors": dict(sorted(manifest.tensors.items())),
        "changes": dict(sorted(changes.items())),
        "files": dict(sorted(manifest.files.items())),
    }
    return as_json({**content, "digest": canonical_digest(content)})


def read_manifest(folder: Path) -> Manifest:
    """Raises BaseError where there is none, WrongBytesError where it is not as it was written."""
    file = folder / MANIFEST
    try:
        content = _content(file)
    except OSError as error:
        raise BaseError(file, f"cannot be read: {error.strerror}; was the folder made by materialize?") from error
    except HeaderError as error:
        raise BaseError(file, f"cannot be read: {error.code}; was the folder made by materialize?") from error
    try:
        said = json.loads(content)
        if type(said) is dict and type(said.get("schema")) is int and said["schema"] != SCHEMA:
            raise BaseError(file, f"is of schema {said['schema']}, of another release; this one reads {SCHEMA}")
        manifest = _parsed(said)
        as_written = rendered(manifest)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise WrongBytesError([(MANIFEST, "what materialize wrote", "something else")]) from None
    if as_written != content:
        expected, actual = (hashlib.sha256(one).hexdigest() for one in (as_written, content))
        raise WrongBytesError([(MANIFEST, expected, actual)])
    return manifest


def _content(file: Path) -> bytes:
    """Of a regular file of a size that is read whole; a pipe is not waited for, a link not followed."""
    with os.fdopen(open_regular(file), "rb") as stream:
        content = stream.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise WrongBytesError([(MANIFEST, f"at most {_LARGEST} bytes", "more")])
    return content


def _parsed(value: Mapping[str, Any]) -> Manifest:
    """Raises ValueError, or what else the wrong type in a place raises."""
    tensors, files = value["tensors"], value["files"]
    for row in tensors.values():
        if not all(map(_counts, row["shape"])) or row["dtype"] not in BITS or not _lies_within(row["file"], deep=False):
            raise ValueError(row)
    for name, row in files.items():
        if not _lies_within(name, deep=True) or not _counts(row["size"]):
            raise ValueError(name)
    if not all(type(row["sha256"]) is str for row in (*tensors.values(), *files.values())):
        raise ValueError("sha256")
    changes = {name: (row["module"], Sums(*row["sums"])) for name, row in value["changes"].items()}
    return Manifest(value["plan"], value["recipe"], tensors, changes, files, value.get("headed"))


def _counts(number: object) -> bool:
    return type(number) is int and 0 <= number < _MORE_THAN_ANY_DISK


def _lies_within(name: str, *, deep: bool) -> bool:
    """Whether a name is of a file in the folder, with `deep` also in a folder of it."""
    path = PurePath(name)
    plain = deep or path.name == name
    return plain and bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\0" not in name
