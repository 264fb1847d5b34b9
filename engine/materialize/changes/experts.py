"""ΔW of all experts of a mixture in one tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from engine.materialize.stored.numbers import floats

if TYPE_CHECKING:
    from torch import Tensor

    from engine.materialize.changes.change import Rows, Weight
    from engine.materialize.stored.place import Place


@dataclass(frozen=True, slots=True)
class Experts:
    """A (experts·r, in) and B (out, r·experts) with the experts innermost, as PEFT stores both, `factor` times.

    The weight is (experts, out, in), or (experts, in, out) where `transposed`; its rows are those of all experts.
    """

    A: Place
    B: Place
    factor: float
    transposed: bool = False

    def opened(self, shape: tuple[int, ...], _weight: Weight) -> Rows:
        experts = shape[0]
        A, B = floats(self.A), floats(self.B)
        A = A.view(experts, -1, A.shape[1])
        B = B.view(B.shape[0], -1, experts).permute(2, 0, 1) * self.factor
        left, right = (A.mT, B.mT) if self.transposed else (B, A)

        height = left.shape[1]

        def moved(start: int, stop: int, W: Tensor) -> Tensor:
            D = torch.empty_like(W)
            for expert in range(start // height, -(-stop // height)):
                first, last = max(start, expert * height), min(stop, (expert + 1) * height)
                own = left[expert, first - expert * height : last - expert * height]
                torch.mm(own, right[expert], out=D[first - start : last - start])
            return D

        return moved
