"""8-bit weights of bitsandbytes in files: a code per number, a scale per row. Source: LLM.int8() (arXiv:2208.07339)."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch

from engine.materialize.encodings.encoding import Encoding, reads, writes
from engine.materialize.stored.files import write, write_tensor
from engine.materialize.stored.numbers import fill, tensor_at

if TYPE_CHECKING:
    from torch import Tensor

    from engine.materialize.encodings.encoding import Rounded
    from engine.materialize.stored.place import Stored


class Int8Reader:
    """Rows of an open file, with the scales of all rows in memory."""

    def __init__(self, descriptor: int, stored: Stored) -> None:
        self._descriptor = descriptor
        self._place = stored.parts[""]
        self._columns = stored.matrix[1]
        self._scales = tensor_at(stored.parts["SCB"]).flatten()

    def rows(self, start: int, stop: int) -> Tensor:
        from bitsandbytes.functional import int8_vectorwise_dequant

        numbers: Tensor = int8_vectorwise_dequant(self._codes(start, stop), self._scales[start:stop])
        return numbers

    def alike(self, start: int, numbers: Tensor) -> int:
        codes, _, _ = _coded(numbers)
        return int(torch.eq(codes, self._codes(start, start + len(numbers))).sum())

    def _codes(self, start: int, stop: int) -> Tensor:
        data = torch.empty((stop - start) * self._columns, dtype=torch.uint8)
        fill(self._descriptor, self._place.file, data, self._place.offset + start * self._columns)
        return data.view(torch.int8).view(stop - start, -1)


class Int8Writer:
    """Rows into an open file; the scales follow the last."""

    def __init__(self, descriptor: int, stored: Stored, _: Rounded) -> None:
        self._descriptor = descriptor
        self._stored = stored
        self._scales = torch.empty(stored.matrix[0])
        self._sum = hashlib.sha256()

    def put(self, start: int, numbers: Tensor) -> Tensor:
        codes, scales, halves = _coded(numbers)
        self._scales[start : start + len(scales)] = scales
        data = codes.numpy().data.cast("B")
        self._sum.update(data)
        write(self._descriptor, data, self._stored.parts[""].offset + start * self._stored.matrix[1])
        return halves

    def digests(self) -> dict[str, str]:
        others = {"SCB": self._scales, "weight_format": torch.zeros((), dtype=torch.uint8)}
        return {"": self._sum.hexdigest()} | {
            role: write_tensor(place, others[role]) for role, place in self._stored.parts.items() if role
        }


def parts(stored: Stored) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Role → dtype and shape of the tensors that are to hold such a weight; `stored` needs to have none yet."""
    return {"": ("I8", stored.shape), "SCB": ("F32", stored.shape[:1]), "weight_format": ("U8", ())}


def _coded(numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Codes, scales, and the halves that bitsandbytes makes of the numbers before anything else."""
    from bitsandbytes.functional import int8_vectorwise_quant

    halves = numbers.to(torch.float16)
    codes, scales, _ = int8_vectorwise_quant(halves)
    return codes, scales, halves


INT8 = Encoding("int8", reads(Int8Reader), writes(Int8Writer), reads(Int8Reader))
