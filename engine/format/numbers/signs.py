"""Where two low-rank matrices have opposite signs, element by element. numpy is imported on first use."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.format.numbers.samples import places

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from engine.format.numbers.subspaces import Block


@dataclass(frozen=True, slots=True)
class Signs:
    """Of `both` elements where neither matrix is zero, `opposed` have opposite signs; `elements` were looked at.

    Counts of a sample stand for the whole matrix, so they add up over matrices of any size.
    """

    opposed: float
    both: float
    elements: int

    @property
    def conflict(self) -> float | None:
        """The share of opposite signs; None where no element is nonzero in both."""
        return min(1.0, self.opposed / self.both) if self.both else None


def compare_signs(left: Block, right: Block) -> Signs:
    """Both matrices over the elements of their sample (samples.py); none where a side has no factors."""
    shape = left.B.shape[0], left.A.shape[1]
    if 0 in (*shape, left.B.shape[1], right.B.shape[1]):
        return Signs(0.0, 0.0, 0)
    rows, columns = places(*shape)
    product = _signs(left, rows, columns) * _signs(right, rows, columns)
    whole = shape[0] * shape[1] / product.size
    return Signs(whole * float((product < 0).sum()), whole * float((product != 0).sum()), product.size)


def all_signs(parts: Sequence[Signs]) -> Signs:
    """The matrices of each side as one."""
    return Signs(
        math.fsum(one.opposed for one in parts),
        math.fsum(one.both for one in parts),
        sum(one.elements for one in parts),
    )


def _signs(block: Block, rows: list[int], columns: list[int]) -> NDArray[np.float64]:
    """-1, 0 or 1; 0 also where rounding alone explains the element, r·ε·‖b‖·‖a‖ for a dot product of length r."""
    import numpy as np

    B, A = block.B[rows], block.A[:, columns]
    elements = B @ A
    epsilon = float(np.finfo(np.float64).eps)
    noise = epsilon * A.shape[0] * np.outer(np.linalg.norm(B, axis=1), np.linalg.norm(A, axis=0))
    signs: NDArray[np.float64] = np.where(np.abs(elements) > noise, np.sign(block.scaling * elements), 0.0)
    return signs
