"""y += scale[slot]·(x·A[slot]ᵀ)·B[slot]ᵀ for tokens of many slots at once: the reference, one function per plan.

Shapes everywhere: x (tokens, in), y (tokens, out), factors of every slot as in `Factors`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from engine.kernels.plans import Gather, Segments, Whole

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from engine.kernels.plans import Plan


class Factors:
    """A module's factors in every slot: A (slots, r, in), B (slots, out, r), and the scale of each slot, as numbers for
    code that runs and as a tensor (slots,) for code that is compiled.
    """

    __slots__ = ("A", "B", "dtype", "numbers", "scales")

    def __init__(self, A: Tensor, B: Tensor, scales: Tensor, numbers: Sequence[float]) -> None:
        self.A = A
        self.B = B
        self.scales = scales
        self.numbers = numbers
        self.dtype = A.dtype


def add_lora(y: Tensor, x: Tensor, factors: Factors, plan: Plan) -> Tensor:
    """Give y + scale·x·Aᵀ·Bᵀ token by token as the plan says; y may be changed in place and is not to be used again.

    x and y have the factors' dtype. Tokens of slot 0 keep their bits.
    """
    return _BY_PLAN[type(plan)](y, x, factors, plan)


def _whole(y: Tensor, x: Tensor, factors: Factors, plan: Whole) -> Tensor:
    for slot, factor in zip(plan.slots, plan.factors, strict=True):
        h = torch.mm(x, factors.A[slot].t())  # (tokens, r)
        y = torch.addmm(y, h, factors.B[slot].t(), alpha=factors.numbers[slot] * factor)
    return y


def _segments(y: Tensor, x: Tensor, factors: Factors, plan: Segments) -> Tensor:
    sorted_x = x if plan.order is None else x.index_select(0, plan.order)
    for slot, start, stop in plan.bounds:
        h = torch.mm(sorted_x[start:stop], factors.A[slot].t())
        delta = torch.mm(h, factors.B[slot].t()).mul_(factors.numbers[slot])
        if plan.order is None:
            y[start:stop] += delta
        else:
            y = y.index_add(0, plan.order[start:stop], delta)
    return y


def _gather(y: Tensor, x: Tensor, factors: Factors, plan: Gather) -> Tensor:
    rows = plan.slots.shape[0]
    h = torch.bmm(x.view(rows, plan.per_row, -1), factors.A[plan.slots].transpose(1, 2))  # (rows, per_row, r)
    h = h * factors.scales[plan.slots][:, None, None]
    return torch.baddbmm(y.view(rows, plan.per_row, -1), h, factors.B[plan.slots].transpose(1, 2)).view_as(y)


_BY_PLAN: Mapping[type, Callable[..., Tensor]] = {Whole: _whole, Segments: _segments, Gather: _gather}
