"""A finished folder held against its materialize.json, to the byte."""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from engine.errors import HeaderError
from engine.format.files.header import open_regular
from engine.format.files.loadable import is_loadable
from engine.format.files.writer import laid_out
from engine.materialize.folder.companions import is_companion
from engine.materialize.folder.manifest import MANIFEST
from engine.materialize.stored.hashing import place_digest
from engine.materialize.stored.place import Place

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from engine.materialize.folder.manifest import Manifest

Wrong = tuple[str, str, str]
"""What is wrong, what was expected, what was found."""

_INDEX = ".safetensors.index.json"
_NO_FILE = "no such file"


def wrong_contents(folder: Path, manifest: Manifest, *, jobs: int | None = None) -> list[Wrong]:
    """Everything that is not as it was written: bytes, sizes, missing files, files that a loader would take as well.

    Reads every byte once.
    """
    places = tensor_places(folder, manifest)
    with ThreadPoolExecutor(jobs) as pool:
        tensors = pool.map(lambda name: _tensor(manifest, name, places[name]), places)
        found = [one for one in tensors if one is not None]
        files = pool.map(lambda name: _file(folder, manifest, name), manifest.files)
        found += [one for one in files if one is not None]
    return [*_headers(folder, manifest), *found, *_strangers(folder, manifest), *_index(folder, manifest)]


def tensor_places(folder: Path, manifest: Manifest) -> dict[str, Place]:
    """Where each stored tensor lies."""
    return {name: place for _, places in _shards(folder, manifest) for name, place in places.items()}


def _shards(folder: Path, manifest: Manifest) -> Iterator[tuple[bytes, dict[str, Place]]]:
    """The header of each weight file, as it was written, and the places of its tensors."""
    for file in sorted({row["file"] for row in manifest.tensors.values()}):
        held = {
            name: (row["dtype"], tuple(row["shape"])) for name, row in manifest.tensors.items() if row["file"] == file
        }
        header, infos = laid_out(held)
        yield (
            header,
            {name: Place(folder / file, len(header) + one.start, one.dtype, one.shape) for name, one in infos.items()},
        )


def _headers(folder: Path, manifest: Manifest) -> Iterator[Wrong]:
    for header, places in _shards(folder, manifest):
        file = next(iter(places.values())).file
        size = len(header) + sum(place.size for place in places.values())
        try:
            descriptor = open_regular(file)
        except HeaderError as error:
            yield file.name, f"{size} bytes", str(error.code)
            continue
        with os.fdopen(descriptor, "rb") as stream:
            if (found := os.fstat(descriptor).st_size) != size:
                yield file.name, f"{size} bytes", f"{found} bytes"
            elif (begin := stream.read(len(header))) != header:
                yield f"{file.name} (header)", _digest(header), _digest(begin)


def _tensor(manifest: Manifest, name: str, place: Place) -> Wrong | None:
    expected = manifest.tensors[name]["sha256"]
    try:
        found = place_digest(place)
    except HeaderError as error:
        found = error.code
    return None if found == expected else (f"{place.file.name}: {name}", expected, found)


def _file(folder: Path, manifest: Manifest, name: str) -> Wrong | None:
    row, file = manifest.files[name], folder / name
    try:
        found = place_digest(Place(file, 0, "U8", (row["size"],)))
    except HeaderError as error:
        return name, row["sha256"], error.code
    if (size := file.stat().st_size) != row["size"]:
        return name, f"{row['size']} bytes", f"{size} bytes"
    return None if found == row["sha256"] else (name, row["sha256"], found)


def _strangers(folder: Path, manifest: Manifest) -> Iterator[Wrong]:
    for name in strangers(folder, manifest):
        if is_companion(name) or is_loadable(name):
            yield name, _NO_FILE, "such a file"


def strangers(folder: Path, manifest: Manifest) -> list[str]:
    """Files that were not written here, sorted; hidden ones and what Python leaves beside code do not count."""
    known = {MANIFEST, *manifest.files, *(row["file"] for row in manifest.tensors.values())}
    return sorted(set(_names(folder)) - known)


def _names(folder: Path) -> Iterable[str]:
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__pycache__"]
        yield from (os.path.relpath(f"{place}/{name}", folder) for name in files if not name.startswith("."))


def _index(folder: Path, manifest: Manifest) -> Iterator[Wrong]:
    """The index against what it stands for: its bytes may be as written and yet say something else."""
    files = {row["file"] for row in manifest.tensors.values()}
    names = [name for name in manifest.files if name.endswith(_INDEX)]
    if len(names) != (len(files) > 1):
        yield "the index", "one for several weight files, none for one", f"{len(names)} for {len(files)}"
    for name in names:
        try:
            found = json.loads((folder / name).read_bytes())["weight_map"]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # its digest says so already
        expected = {tensor: row["file"] for tensor, row in manifest.tensors.items()}
        if found != expected:
            yield f"{name}: weight_map", f"{len(expected)} tensors where they lie", "another map"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
