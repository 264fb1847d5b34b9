"""A weight whose bytes are its numbers."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch

from engine.materialize.encodings.encoding import Encoding, reads, writes
from engine.materialize.stored.files import write
from engine.materialize.stored.numbers import fill
from engine.materialize.stored.place import PLAIN
from engine.model.memory.tensordata import DTYPES, wide

if TYPE_CHECKING:
    from torch import Tensor

    from engine.materialize.encodings.encoding import Rounded
    from engine.materialize.stored.place import Stored


class PlainReader:
    """Rows of an open file, through one buffer."""

    def __init__(self, descriptor: int, stored: Stored) -> None:
        place = stored.parts[""]
        self._descriptor = descriptor
        self._place = place
        self._dtype = DTYPES[place.dtype]
        self._line = place.size // max(stored.matrix[0], 1)
        self._bytes = torch.empty(0, dtype=torch.uint8)
        self._floats = torch.empty(0, dtype=wide(self._dtype))

    def rows(self, start: int, stop: int) -> Tensor:
        size = (stop - start) * self._line
        if len(self._bytes) != size:
            self._bytes = torch.empty(size, dtype=torch.uint8)
            self._floats = torch.empty(self._bytes.view(self._dtype).shape, dtype=self._floats.dtype)
        fill(self._descriptor, self._place.file, self._bytes, self._place.offset + start * self._line)
        return self._floats.copy_(self._bytes.view(self._dtype)).view(stop - start, -1)


class PlainWriter:
    """Rows into an open file, each rounded once."""

    def __init__(self, descriptor: int, stored: Stored, rounded: Rounded) -> None:
        place = stored.parts[""]
        self._descriptor = descriptor
        self._place = place
        self._rounded = rounded
        self._line = place.size // max(stored.matrix[0], 1)
        self._sum = hashlib.sha256()

    def put(self, start: int, numbers: Tensor) -> Tensor:
        stored = self._rounded(numbers, start, DTYPES[self._place.dtype])
        data = stored.view(torch.uint8).numpy().data.cast("B")
        self._sum.update(data)
        write(self._descriptor, data, self._place.offset + start * self._line)
        return stored

    def digests(self) -> dict[str, str]:
        return {"": self._sum.hexdigest()}


ENCODING = Encoding(PLAIN, reads(PlainReader), writes(PlainWriter))
