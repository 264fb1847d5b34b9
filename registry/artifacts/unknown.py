"""A folder that the catalog does not know, held against what it says of itself."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from engine.format.adapter import CONFIG_NAME
from engine.format.imageset import read_imageset
from registry.artifacts.build import IMAGES
from registry.artifacts.results import ArtifactCheck
from registry.errors import CorruptError, NotFoundError
from registry.files.disk import reaching, reading
from registry.operations import measure_again

if TYPE_CHECKING:
    from pathlib import Path

    from engine.format.imageset import StoredImage

_CHUNK = 4 << 20


def verify_unknown(folder: Path) -> ArtifactCheck:
    """Every byte hashed: a checkpoint's by its materialize.json, images' by the map in their file. CorruptError and the
    engine's errors name what is wrong; NotFoundError where nothing in the folder tells what its bytes should be.
    """
    if not os.path.lexists(folder / "materialize.json"):
        if os.path.lexists(folder / IMAGES):
            return _images(folder)
        if os.path.lexists(folder / CONFIG_NAME):
            told, hint = "an adapter says nothing of its bytes", f"adapters which {folder}"
        else:
            told, hint = f"it holds neither materialize.json nor {IMAGES}", "adapters artifacts list"
        raise NotFoundError(f"{folder}: the catalog knows no artifact there, and {told}", hint=hint)
    found = measure_again(folder)
    return ArtifactCheck(None, folder, None, found["files"], found["tensors"], {})


def _images(folder: Path) -> ArtifactCheck:
    file = folder / IMAGES
    images = read_imageset(file)
    with reaching(file), reading(file) as descriptor:
        for one in images.images.values():
            actual = _digest(descriptor, one)
            if actual != one.sha256:
                raise CorruptError(f"{file}: image {one.name}", expected=one.sha256, actual=actual)
    return ArtifactCheck(None, folder, None, 1, len(images.images), {})


def _digest(descriptor: int, image: StoredImage) -> str:
    digest, end = hashlib.sha256(), image.start + image.size
    for start in range(image.start, end, _CHUNK):
        digest.update(os.pread(descriptor, min(_CHUNK, end - start), start))
    return f"sha256:{digest.hexdigest()}"
