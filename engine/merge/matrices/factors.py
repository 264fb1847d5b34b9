"""Reads the factors of parents from their files, one tensor at a time, and shows them as plain matrices."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Self

import torch

from engine.errors import UnreadableError
from engine.format.files.header import open_regular
from engine.merge.matrices.parts import Part

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from engine.format.facts import AdapterFacts
    from engine.merge.plan import ModulePlan

TORCH_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
"""Torch's dtype of every name in `dtypes.READABLE`."""


CPU = torch.device("cpu")


class FactorFile:
    """A parent's open weights file, read from any thread. A class because it holds the descriptor."""

    def __init__(self, facts: AdapterFacts, *, device: torch.device = CPU) -> None:
        self._device = device
        self._path = facts.weights
        self._header = facts.header
        self._descriptor = open_regular(facts.weights)

    def read(self, name: str) -> Tensor:
        """The tensor `name`, copied from the file to the device.

        Raises UnreadableError where the file has become shorter since its header was read.
        """
        info = self._header.tensors[name]
        data = bytearray(info.size)
        view, offset = memoryview(data), self._header.data_offset + info.start
        while view:
            count = os.preadv(self._descriptor, [view], offset)
            if count == 0:
                raise UnreadableError(self._path, f"ends inside tensor {name}")
            view, offset = view[count:], offset + count
        return torch.frombuffer(data, dtype=TORCH_DTYPES[info.dtype]).reshape(info.shape).to(self._device)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def grouped(module: ModulePlan, files: Sequence[FactorFile], *, precise: bool = False) -> Iterator[list[Part]]:
    """The parts of each group of `module`: B (rows, r) and A (r, columns), kernels laid flat.

    In a grouped convolution output channels of group g see only the g-th share of A's ranks, so every group is a sum
    of its own: A is split by ranks, B (out, r/groups) by output channels. A bare parameter is a sum for each expert.
    Everything else is one group. `precise` keeps a DoRA module's ΔW in float64.
    """
    pieces: list[tuple[Sequence[Tensor], Sequence[Tensor], float]] = []
    for piece in module.pieces:
        file, facts = files[piece.parent], piece.module
        if module.vector:
            vector = file.read(facts.b_key).reshape(-1, 1)
            pieces.append(([torch.ones(1, 1, device=vector.device)], [vector], facts.scaling))
            continue
        if piece.dora is not None:
            factors = Part(file.read(facts.b_key).flatten(1), file.read(facts.a_key).flatten(1), facts.scaling)
            dense = piece.dora.dense(factors, file.read(piece.dora.magnitude), precise=precise)
            pieces.append(([dense.A], [dense.B], dense.scaling))
            continue
        A = file.read(facts.a_key).flatten(1).chunk(module.groups)
        B = file.read(facts.b_key).flatten(1)
        shares = B.reshape(len(B), -1, module.groups).unbind(2) if module.experts else B.chunk(module.groups)
        pieces.append((A, shares, facts.scaling))
    for group in range(module.groups):
        yield [Part(B[group], A[group], scaling) for A, B, scaling in pieces]


def padded(B: Tensor, A: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The factors with zeros up to `rank`."""
    missing = rank - B.shape[1]
    if missing <= 0:
        return B, A
    return torch.nn.functional.pad(B, (0, missing)), torch.nn.functional.pad(A, (0, 0, 0, missing))


def joined(module: ModulePlan, factors: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """B and A of the whole module from those of its groups, the inverse of `grouped` but for kernels."""
    A = torch.cat([a for _, a in factors])
    if module.experts:
        return torch.stack([b for b, _ in factors], 2).flatten(1), A
    return torch.cat([b for b, _ in factors]), A


def as_bytes(tensor: Tensor) -> memoryview:
    """The little-endian bytes of a tensor, not copied where it lies in order in memory."""
    return tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
