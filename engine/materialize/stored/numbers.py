"""Stored bytes as torch tensors: read, not mapped, so that a file that shrinks gives an error and no crash."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch

from engine.errors import HeaderError
from engine.format.header import open_regular

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from engine.materialize.stored.place import Place

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}

NAMES = {str(dtype).removeprefix("torch."): name for name, dtype in DTYPES.items()}
"""safetensors' name by torch's, as configs spell it."""


def floats(place: Place, columns: slice = slice(None)) -> Tensor:
    """The numbers of the tensor, float32 in its shape: all, or those `columns` of its last dimension."""
    return tensor_at(place)[..., columns].to(torch.float32)


def tensor_at(place: Place) -> Tensor:
    """All numbers of the tensor, as stored."""
    descriptor = open_regular(place.file)
    try:
        return raw(descriptor, place)
    finally:
        os.close(descriptor)


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
