"""An adapter in memory as one row of numbers, laid out as the model's slots are, so that a swap is one copy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open

from engine.compat.finding import Finding
from engine.errors import RefusedError
from engine.model.kinds import KINDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from engine.format.facts import AdapterFacts
    from engine.model.layout import Layout
    from engine.model.part import Part


@dataclass(frozen=True, slots=True)
class Image:
    """`values` (total,) on the host, padded with zeros to the layout's ranks; `scales` one number per site."""

    layout: Layout
    values: Tensor
    scales: tuple[float, ...]

    def views(self, path: str) -> dict[str, Tensor]:
        """The sections of one module."""
        return {name: section.of(self.values) for name, section in self.layout.sections[path].items()}


def build_image(facts: AdapterFacts, parts: Sequence[Part], layout: Layout, dtype: torch.dtype) -> Image:
    """Read the adapter's tensors into an image of this layout.

    Raises RefusedError where a number is NaN or infinite, UnreadableError where the file went away.
    """
    values = torch.zeros(layout.total, dtype=dtype)
    scales = [0.0] * len(layout.wants)
    image = Image(layout, values, ())
    with safe_open(facts.weights, framework="pt") as file:
        for part in parts:
            tensors = {role: file.get_tensor(name) for role, name in part.tensors.items()}
            KINDS[part.kind].fill(image.views(part.path), tensors, part)
            scales[layout.columns[part.path]] = part.scaling
    if not torch.isfinite(values).all():
        raise RefusedError(_not_finite(image, parts))
    return Image(layout, values, tuple(scales))


def _not_finite(image: Image, parts: Sequence[Part]) -> list[Finding]:
    found = []
    for part in parts:
        for name, view in image.views(part.path).items():
            if not torch.isfinite(view).all():
                message = f"{part.path}: {name} holds NaN or infinite numbers"
                found.append(Finding("value-nonfinite", "error", message, where=part.path))
    return found


def relaid(image: Image, layout: Layout) -> Image:
    """The same adapter in another layout, which holds all that the old one does."""
    values = torch.zeros(layout.total, dtype=image.values.dtype)
    moved = Image(layout, values, ())
    scales = [0.0] * len(layout.wants)
    for path, column in image.layout.columns.items():
        views = moved.views(path)
        for name, view in image.views(path).items():
            views[name][tuple(slice(0, size) for size in view.shape)].copy_(view)
        scales[layout.columns[path]] = image.scales[column]
    return Image(layout, values, tuple(scales))
