"""ΔW = factor·B·A on a weight stored (out, in), or (in, out)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from engine.materialize.numbers import floats

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from engine.materialize.changes.change import Rows
    from engine.materialize.place import Place


@dataclass(frozen=True, slots=True)
class LowRank:
    """A (r, in) and B (out, r), `factor` times; `transposed` for a weight stored (in, out)."""

    A: Place
    B: Place
    factor: float
    transposed: bool = False

    def opened(self, shape: tuple[int, ...], weight: Callable[[int, int], Tensor]) -> Rows:  # noqa: ARG002 (W is not needed)
        A, B = floats(self.A).flatten(1), floats(self.B).flatten(1)
        left, right = (A.T, B.T) if self.transposed else (B, A)
        left = left * self.factor
        return lambda start, stop, _: torch.mm(left[start:stop], right)
