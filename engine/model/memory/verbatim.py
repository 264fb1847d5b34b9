"""Adapters whose tensors lie in an image as they lie in the file: those are read right into their places."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from engine.format.files.tensorfile import TensorFile
from engine.model.kinds import KINDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from engine.format.facts import AdapterFacts
    from engine.model.fitting.part import Part
    from engine.model.memory.layout import Layout

_STORED = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}

Places = tuple[tuple[int, int], ...]
"""Start and size in bytes, within an image, of every tensor of a file in the file's order."""


def places_of(facts: AdapterFacts, parts: Sequence[Part], layout: Layout, dtype: torch.dtype) -> Places | None:
    """Where each tensor of the file belongs; None where one of them is not to lie there as it is."""
    tensors, found = facts.header.tensors, {}
    for part in parts:
        if part.tensors.keys() != KINDS[part.kind].verbatim:
            return None
        sections = layout.sections[part.path]
        for role, name in part.tensors.items():
            info = tensors[name]
            if info.shape != sections[role].shape or info.dtype != _STORED[dtype]:
                return None
            found[name] = sections[role].offset * dtype.itemsize
    if found.keys() != tensors.keys():
        return None
    return tuple((found[name], info.size) for name, info in tensors.items())


def read_into(values: Tensor, facts: AdapterFacts, places: Places) -> None:
    """Read the file's tensors into their places of an image (total,). Raises HeaderError where the file changed."""
    data = values.view(torch.uint8).numpy().data
    with TensorFile(facts.weights, facts.header) as file:
        file.scatter([data[start : start + size] for start, size in places])
