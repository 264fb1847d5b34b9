"""All tensors of a safetensors file as torch tensors over one read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from engine.errors import HeaderError
from engine.format.files.tensorfile import TensorFile
from engine.model.memory.source import mark_of

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from engine.format.files.tensors import Header

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


def wide(dtype: torch.dtype) -> torch.dtype:
    """What numbers of that dtype are summed in."""
    return torch.float64 if dtype is torch.float64 else torch.float32


def widened(tensor: Tensor) -> Tensor:
    """The tensor in what its numbers are summed in."""
    return tensor.to(wide(tensor.dtype))


class TensorData:
    """The bytes behind a header, read at once. Raises HeaderError where the file is no longer the header's."""

    def __init__(self, path: Path, header: Header) -> None:
        self._path = path
        self._header = header
        with TensorFile(path, header) as file:
            self._bytes = np.empty(header.file_size - header.data_offset, np.uint8)
            file.scatter([self._bytes.data])
        infos = header.tensors.values()
        parts = torch.split(torch.from_numpy(self._bytes), [info.size for info in infos])
        self._flat: dict[str, Tensor] = dict(zip(header.tensors, parts, strict=True))

    def tensor(self, name: str) -> Tensor:
        """The tensor of that name: a view where its bytes lie as its dtype needs, else a copy.

        Raises HeaderError for a dtype that factors never have.
        """
        info = self._header.tensors[name]
        dtype = DTYPES.get(info.dtype)
        if dtype is None:
            raise HeaderError(self._path, "unknown-dtype", f"tensor {name!r} of {info.dtype} is not read here")
        data = self._flat[name]
        return (data.clone() if info.start % dtype.itemsize else data).view(dtype).view(info.shape)

    def mark(self) -> int:
        """The mark of all bytes."""
        return mark_of(self._bytes)
