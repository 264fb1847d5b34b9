"""Stored bytes as torch tensors: read, not mapped, so that a file that shrinks gives an error and no crash."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch

from engine.errors import HeaderError
from engine.materialize.stored.files import reading
from engine.model.memory.tensordata import DTYPES

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from engine.materialize.stored.place import Place

NAMES = {str(dtype).removeprefix("torch."): name for name, dtype in DTYPES.items()}
"""safetensors' name by torch's, as configs spell it."""


def floats(place: Place) -> Tensor:
    """The numbers of the tensor, float32 in its shape."""
    return tensor_at(place).to(torch.float32)


def tensor_at(place: Place) -> Tensor:
    """All numbers of the tensor, as stored."""
    with reading(place.file) as descriptor:
        return raw(descriptor, place)


def raw(descriptor: int, place: Place) -> Tensor:
    """All numbers of the tensor in an open file, as stored."""
    data = torch.empty(place.size, dtype=torch.uint8)
    fill(descriptor, place.file, data, place.offset)
    return data.view(DTYPES[place.dtype]).reshape(place.shape)


def fill(descriptor: int, file: Path, data: Tensor, offset: int) -> None:
    """Fill the bytes `data` (uint8) from `offset` on; raises HeaderError where the file ends before."""
    view, done = data.numpy().data, 0
    while done < len(view):
        count = os.preadv(descriptor, [view[done:]], offset + done)
        if count == 0:
            raise HeaderError(file, "changed", "the file became shorter after its header was read")
        done += count
