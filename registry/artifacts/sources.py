"""The adapters and the base of a request: on disk, and named by digests."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from registry.artifacts.request import as_place
from registry.errors import UsageError
from registry.files.intake import scan
from registry.files.manifest import manifest_bytes
from registry.files.transfer import hash_file
from registry.merges.ingredients import fetch
from registry.results import FileEntry
from registry.values.digests import digest_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from registry.basemodels.bases import BaseMention
    from registry.handle import Handle


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter folder. `digest` is that of the version, or of the one that a push of the folder would make; `name` is
    the exact reference, or the path; `label` is what the result calls it: the reference, nothing for a folder, whose
    path is of this machine. `base` is what the catalog knows of a version's.
    """

    name: str
    path: Path
    digest: str
    weight: float
    base: BaseMention | None = None
    label: str = ""


def fetch_adapters(handle: Handle, texts: Sequence[str], weights: Sequence[float]) -> tuple[Adapter, ...]:
    """Every adapter on disk, references pulled, all of them resolved before the first is."""
    refs = [handle.ref(text) for text in texts if as_place(text) is None]
    versions = iter(fetch(handle, refs) if refs else ())
    found = []
    for text, weight in zip(texts, weights, strict=True):
        place = as_place(text)
        if place is not None:
            found.append(Adapter(str(place.absolute()), place, folder_digest(place), weight))
        else:
            version = next(versions)
            found.append(Adapter(version.ref, version.path, version.digest, weight, version.base, version.ref))
    return tuple(found)


def with_image_names(adapters: Sequence[Adapter]) -> tuple[Adapter, ...]:
    """The adapters with a label each, by which a runtime asks for an image: the reference, or the folder's own name.

    UsageError where two would have the same.
    """
    named = tuple(one if one.label else replace(one, label=one.path.absolute().name) for one in adapters)
    labels = [one.label for one in named]
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        raise UsageError(f"two adapters would be image {twice!r}: a folder's name is that of its image")
    return named


def folder_digest(folder: Path) -> str:
    """The digest that a push of this folder would give; IntakeError for what no push takes."""
    entries = []
    for file in scan(folder).files:
        with file.open() as descriptor:
            content = hash_file(descriptor)
        entries.append(FileEntry(file.path, content.digest, content.size))
    return digest_of(manifest_bytes(entries))
