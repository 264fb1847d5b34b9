"""An adapter in memory as one row of numbers, laid out as the model's slots are, so that a swap is one copy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from engine.compat.finding import Finding
from engine.errors import RefusedError
from engine.model.kinds import KINDS
from engine.model.kinds.sections import write
from engine.model.memory.room import allocating
from engine.model.memory.source import mark_of
from engine.model.memory.tensordata import TensorData
from engine.model.memory.verbatim import places_of, read_into

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from engine.format.facts import AdapterFacts
    from engine.model.fitting.part import Part
    from engine.model.memory.layout import Layout
    from engine.model.memory.mapped import Mapped


@dataclass(frozen=True, slots=True)
class Image:
    """`values` (total,) on the host, padded with zeros to the layout's ranks; `mapped` where they are a file's."""

    layout: Layout
    values: Tensor
    mapped: Mapped | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the numbers."""
        return self.values.nbytes

    def check(self) -> None:
        """Raise SourceGoneError where they are a file's that was changed since."""
        if self.mapped is not None:
            self.mapped.check()

    def views(self, path: str) -> dict[str, Tensor]:
        """The sections of one module."""
        return {name: section.of(self.values) for name, section in self.layout.sections[path].items()}


def empty_image(layout: Layout, dtype: torch.dtype, *, pinned: bool) -> Image:
    """An image of zeros; `pinned`: in memory that a device reads by itself. Raises OutOfRoomError."""
    with allocating("an adapter's image on the host", layout.total * dtype.itemsize):
        values = torch.zeros(layout.total, dtype=dtype, pin_memory=pinned)
    return Image(layout, values)


def build_image(
    facts: AdapterFacts, parts: Sequence[Part], layout: Layout, dtype: torch.dtype, *, pinned: bool = False
) -> tuple[Image, int]:
    """Read the adapter's tensors into an image of this layout; also a mark of what the file holds, which is the same
    for the same file in the same layout.

    Raises RefusedError where a number is NaN or infinite, HeaderError where the file went away or changed,
    OutOfRoomError.
    """
    image = empty_image(layout, dtype, pinned=pinned)
    places = places_of(facts, parts, layout, dtype)
    if places is not None:
        read_into(image.values, facts, places)
        mark = mark_of(image.values.view(torch.uint8).numpy())
    else:
        mark = _filled(image, facts, parts)
    if not all_finite(image.values):
        raise RefusedError(not_finite(image, parts))
    return image, mark


def _filled(image: Image, facts: AdapterFacts, parts: Sequence[Part]) -> int:
    data = TensorData(facts.weights, facts.header)
    for part in parts:
        tensors = {role: data.tensor(name) for role, name in part.tensors.items()}
        kind = KINDS[part.kind]
        sections = kind.raw(part, tensors)
        write(image.views(part.path), sections | kind.derived(part, sections))
    return data.mark()


def all_finite(values: Tensor) -> bool:
    """Whether no number is NaN or infinite. One pass: a sum that is finite has only finite terms."""
    total = values.sum(dtype=torch.float32 if values.dtype.itemsize < torch.float32.itemsize else None)
    return math.isfinite(float(total)) or bool(torch.isfinite(values).all())


def not_finite(image: Image, parts: Sequence[Part]) -> list[Finding]:
    """A finding for every section of these parts that holds NaN or infinity."""
    found = []
    for part in parts:
        for name, view in image.views(part.path).items():
            if not torch.isfinite(view).all():
                message = f"{part.path}: {name} holds NaN or infinite numbers"
                found.append(Finding("value-nonfinite", "error", message, where=part.path))
    return found


def relaid(image: Image, layout: Layout, *, pinned: bool = False, dtype: torch.dtype | None = None) -> Image:
    """The same adapter in another layout that holds it, also where the old one held more, and in another dtype.

    Raises OutOfRoomError.
    """
    moved = empty_image(layout, dtype or image.values.dtype, pinned=pinned)
    for path in image.layout.columns.keys() & layout.columns.keys():
        views = moved.views(path)
        for name, view in image.views(path).items():
            if name in views:
                both = tuple(slice(0, min(sizes)) for sizes in zip(view.shape, views[name].shape, strict=True))
                views[name][both].copy_(view[both])
    return moved
