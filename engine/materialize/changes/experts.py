"""ΔW of the experts of a mixture whose factors are together: of all in one tensor, or of one alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from engine.materialize.stored.numbers import floats, tensor_at

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
        B = by_expert(B, experts) * self.factor
        left, right = (A.mT, B.mT) if self.transposed else (B, A)

        height = left.shape[1]

        def moved(start: int, stop: int, W: Tensor) -> Tensor:
            D = torch.empty(W.shape)
            for expert in range(start // height, -(-stop // height)):
                first, last = max(start, expert * height), min(stop, (expert + 1) * height)
                own = left[expert, first - expert * height : last - expert * height]
                torch.mm(own, right[expert], out=D[first - start : last - start])
            return D

        return moved


@dataclass(frozen=True, slots=True)
class Expert:
    """One expert of a mixture that is stored one by one: A (r, in) is its own, B (out, r·experts) that of all.

    All tasks of one mixture need the same B, of which a page of the file holds numbers of every expert; so a run may
    read it once and hand each its own.
    """

    A: Place
    B: Place
    factor: float
    expert: int
    experts: int

    def opened(self, _shape: tuple[int, ...], _weight: Weight) -> Rows:
        return self.taken(stack_of(self.B, self.experts))

    def taken(self, stack: Tensor) -> Rows:
        """The function of rows, from B as (experts, out, r)."""
        A, B = floats(self.A), stack[self.expert].to(torch.float32) * self.factor
        return lambda start, stop, _: torch.mm(B[start:stop], A)


def stack_of(B: Place, experts: int) -> Tensor:
    """B as a file has it, (out, r·experts), by expert and in its dtype."""
    return by_expert(tensor_at(B), experts)


def by_expert(B: Tensor, experts: int) -> Tensor:
    """B (out, r·experts) as (experts, out, r), each expert's numbers in one run."""
    return B.view(B.shape[0], -1, experts).permute(2, 0, 1).contiguous()
