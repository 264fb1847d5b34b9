"""A module's ΔW by row blocks: what methods on single elements work through, so that no parent's is ever whole."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from engine.merge.matrices.parts import Part

BLOCK = 1 << 17
"""Elements of a block: half a MiB of float32, so that a handful of them stay in a core's cache."""


def row_blocks(shape: tuple[int, int], *, size: int = BLOCK) -> Iterator[tuple[int, int]]:
    """First row and the row after the last of each block, of about `size` elements and one row at least."""
    rows, columns = shape
    step = max(1, size // columns)
    for start in range(0, rows, step):
        yield start, min(start + step, rows)


def filled(
    parts: Sequence[Part],
    shape: tuple[int, int],
    combine: Callable[[list[Tensor], int], Tensor],
    *,
    size: int = BLOCK,
) -> Tensor:
    """The matrix (m, n) float32 whose rows `combine` makes from the same rows of every D_i.

    It is called with a list of (rows, n) float32, its own to change, and the flat index of their first element. Raises
    FloatingPointError where the result is not finite.
    """
    whole = torch.empty(shape, dtype=torch.float32, device=parts[0].A.device)
    lean = [part.single() for part in parts]
    for start, stop in row_blocks(shape, size=size):
        whole[start:stop] = combine([part.block(start, stop) for part in lean], start * shape[1])
    return whole


def energy(matrix: Tensor) -> float:
    """‖matrix‖² (Frobenius), summed in float64.

    Raises FloatingPointError where it is not finite.
    """
    shape = (matrix.shape[0], matrix.shape[1])
    total = math.fsum(
        float(torch.linalg.vector_norm(matrix[start:stop], dtype=torch.float64)) ** 2
        for start, stop in row_blocks(shape)
    )
    if not math.isfinite(total):
        raise FloatingPointError("not all values are finite")
    return total
