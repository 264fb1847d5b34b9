"""4-bit weights of bitsandbytes in files: nf4 and fp4."""

from __future__ import annotations

import hashlib
from math import prod
from typing import TYPE_CHECKING

import torch

from engine.materialize.encodings.codes import alike, coded
from engine.materialize.encodings.encoding import Encoding, reads, writes
from engine.materialize.encodings.scales import beside, scales_of
from engine.materialize.stored.files import write, write_tensor
from engine.materialize.stored.numbers import fill
from engine.model.weights.fourbit import decoded

if TYPE_CHECKING:
    from torch import Tensor

    from engine.materialize.encodings.encoding import Rounded
    from engine.materialize.stored.place import Stored


class FourBitReader:
    """Rows of an open file, with all scales of the weight in memory: 1/16 byte per number."""

    def __init__(self, descriptor: int, stored: Stored) -> None:
        self._descriptor = descriptor
        self._stored = stored
        self._columns = stored.matrix[1]
        self._scales = scales_of(stored)

    def rows(self, start: int, stop: int) -> Tensor:
        begin, end, size = start * self._columns, stop * self._columns, self._stored.blocksize
        first = begin // size * size
        codes, scales = self._codes(first, end), self._scales[first // size :]
        found = decoded(codes, scales, self._stored.encoding, size, end - first)
        return found[begin - first :].view(stop - start, -1)

    def alike(self, start: int, numbers: Tensor) -> int:
        begin, count = start * self._columns, numbers.numel()
        codes, _ = coded(numbers.float().flatten(), self._stored.blocksize, self._stored.encoding)
        return alike(codes, self._codes(begin, begin + count).numpy(), count)

    def _codes(self, first: int, end: int) -> Tensor:
        """Of the numbers from an even one on."""
        data = torch.empty((end - first + 1) // 2, dtype=torch.uint8)
        place = self._stored.parts[""]
        fill(self._descriptor, place.file, data, place.offset + first // 2)
        return data


class FourBitWriter:
    """Rows into an open file, whole blocks of one scale at a time; the scales follow the last row."""

    def __init__(self, descriptor: int, stored: Stored, _: Rounded) -> None:
        self._descriptor = descriptor
        self._stored = stored
        self._scales = torch.empty(-(-prod(stored.shape) // stored.blocksize))
        self._sum = hashlib.sha256()

    def put(self, start: int, numbers: Tensor) -> Tensor:
        begin = start * self._stored.matrix[1]
        numbers = numbers.float()
        codes, scales = coded(numbers.flatten(), self._stored.blocksize, self._stored.encoding)
        block = begin // self._stored.blocksize
        self._scales[block : block + len(scales)] = scales
        self._sum.update(codes.data)
        write(self._descriptor, codes.data, self._stored.parts[""].offset + begin // 2)
        return numbers

    def digests(self) -> dict[str, str]:
        others = beside(self._stored, self._scales)
        return {"": self._sum.hexdigest()} | {
            role: write_tensor(self._stored.parts[role], data) for role, data in others.items()
        }


NF4 = Encoding("nf4", reads(FourBitReader), writes(FourBitWriter), reads(FourBitReader))
FP4 = Encoding("fp4", reads(FourBitReader), writes(FourBitWriter), reads(FourBitReader))
