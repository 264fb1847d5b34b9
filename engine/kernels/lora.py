"""y += scale[slot]·(x·A[slot]ᵀ)·B[slot]ᵀ for tokens of many slots at once: the reference, a pair of functions per plan.

Shapes everywhere: x (tokens, in), y (tokens, out), factors of every slot as in `Factors`. `shrink` gives h, the tokens
in at most rank numbers each, in the order that suits the plan; `expand` takes it and adds to y.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from engine.kernels.plans import Gather, Padded, Segments, Whole

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from engine.kernels.plans import Plan


_MANY = 64
"""Runs of slots whose views a module keeps."""


class Factors:
    """A module's factors in every slot: A (slots, r, in), B (slots, out, r), and the scale of each slot, as numbers for
    code that runs and as a tensor (slots,) for code that is compiled.

    `ranks` are the slots' own ranks, up to which their factors are not zero; without them, r for all.
    """

    __slots__ = ("A", "B", "_pairs", "_sides", "dtype", "numbers", "ranks", "scales")

    def __init__(
        self, A: Tensor, B: Tensor, scales: Tensor, numbers: Sequence[float], ranks: Sequence[int] | None = None
    ) -> None:
        self.A = A
        self.B = B
        self.scales = scales
        self.numbers = numbers
        self.ranks = ranks if ranks is not None else (A.shape[1],) * A.shape[0]
        self.dtype = A.dtype
        self._pairs: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self._sides: dict[tuple[int, int, int], tuple[Tensor, Tensor, Tensor]] = {}

    def pair(self, slot: int) -> tuple[Tensor, Tensor]:
        """Aᵀ (in, own rank) and Bᵀ (own rank, out) of one slot: views that are made once."""
        rank = self.ranks[slot]
        found = self._pairs.get((slot, rank))
        if found is None:
            found = self._pairs[slot, rank] = (self.A[slot, :rank].t(), self.B[slot, :, :rank].t())
        return found

    def side_by_side(self, plan: Padded) -> tuple[Tensor, Tensor, Tensor]:
        """Aᵀ, Bᵀ and scales of the plan's slots, up to the largest of their ranks: views that are made once."""
        slots = slice(plan.low, plan.high)
        rank = max(self.ranks[slots])
        found = self._sides.get((plan.low, plan.high, rank))
        if found is None:
            if len(self._sides) >= _MANY:
                self._sides.clear()
            found = self._sides[plan.low, plan.high, rank] = (
                self.A[slots, :rank].transpose(1, 2),
                self.B[slots, :, :rank].transpose(1, 2),
                self.scales[slots, None, None],
            )
        return found


def add_lora(y: Tensor, x: Tensor, factors: Factors, plan: Plan) -> Tensor:
    """Give y + scale·x·Aᵀ·Bᵀ token by token as the plan says; y may be changed in place and is not to be used again.

    x and y have the factors' dtype, y is contiguous. Tokens of slot 0 keep their bits.
    """
    op = op_for(x, plan)
    return op.expand(y, op.shrink(x, factors, plan), factors, plan)


def shrink(x: Tensor, factors: Factors, plan: Plan) -> Any:
    """Give h = x·A[slot]ᵀ for `expand` with the same plan."""
    return op_for(x, plan).shrink(x, factors, plan)


def expand(y: Tensor, h: Any, factors: Factors, plan: Plan) -> Tensor:
    """Give y + scale[slot]·h·B[slot]ᵀ; y as in `add_lora`."""
    return op_for(y, plan).expand(y, h, factors, plan)


@dataclass(frozen=True, slots=True)
class Op:
    """The two halves for one plan. What `shrink` gives only the `expand` beside it understands."""

    shrink: Callable[[Tensor, Factors, Any], Any]
    expand: Callable[[Tensor, Any, Factors, Any], Tensor]


def op_for(x: Tensor, plan: Plan) -> Op:
    """The operation for such a tensor and plan: the device's own where it has one, else the reference."""
    return BY_DEVICE.get(x.device.type, REFERENCE)[type(plan)]


def _shrink_whole(x: Tensor, factors: Factors, plan: Whole) -> list[Tensor]:
    return [torch.mm(x, factors.pair(slot)[0]) for slot in plan.slots]


def _expand_whole(y: Tensor, h: list[Tensor], factors: Factors, plan: Whole) -> Tensor:
    for part, slot, factor in zip(h, plan.slots, plan.factors, strict=True):
        scale = factors.numbers[slot] * factor
        Bt = factors.pair(slot)[1]
        y = torch.addmm(y, part, Bt, alpha=scale) if y.requires_grad else y.addmm_(part, Bt, alpha=scale)
    return y


def _shrink_segments(x: Tensor, factors: Factors, plan: Segments) -> list[Tensor]:
    ordered = x if plan.order is None else x.index_select(0, plan.order)
    return [torch.mm(ordered[start:stop], factors.pair(slot)[0]) for slot, start, stop in plan.bounds]


def _expand_segments(y: Tensor, h: list[Tensor], factors: Factors, plan: Segments) -> Tensor:
    y = _own(y)
    if plan.order is None:
        for part, (slot, start, stop) in zip(h, plan.bounds, strict=True):
            y[start:stop].addmm_(part, factors.pair(slot)[1], alpha=factors.numbers[slot])
        return y
    nothing = y.new_zeros(())
    parts = [
        torch.addmm(nothing, part, factors.pair(slot)[1], beta=0, alpha=factors.numbers[slot])
        for part, (slot, _, _) in zip(h, plan.bounds, strict=True)
    ]
    return y.index_add_(0, plan.order, torch.cat(parts))


def _shrink_padded(x: Tensor, factors: Factors, plan: Padded) -> tuple[Tensor, Tensor, Tensor]:
    At, Bt, scales = factors.side_by_side(plan)
    return torch.bmm(x.index_select(0, plan.take).view(-1, plan.width, x.shape[1]), At), Bt, scales


def _expand_padded(y: Tensor, shrunk: tuple[Tensor, Tensor, Tensor], _: Factors, plan: Padded) -> Tensor:
    h, Bt, scales = shrunk
    delta = torch.bmm(h.mul_(scales), Bt).view(-1, y.shape[1])
    y = _own(y)
    if plan.give is not None:
        delta = delta.index_select(0, plan.give)
    return y.add_(delta) if plan.to is None else y.index_add_(0, plan.to, delta)


def _shrink_gather(x: Tensor, factors: Factors, plan: Gather) -> Tensor:
    rows = plan.slots.shape[0]
    A = factors.A.index_select(0, plan.slots)
    return torch.bmm(x.view(rows, plan.per_row, x.shape[1]), A.transpose(1, 2))  # (rows, per_row, r)


def _expand_gather(y: Tensor, h: Tensor, factors: Factors, plan: Gather) -> Tensor:
    rows = plan.slots.shape[0]
    h = h * factors.scales.index_select(0, plan.slots)[:, None, None]
    Bt = factors.B.index_select(0, plan.slots).transpose(1, 2)
    return torch.baddbmm(y.view(rows, plan.per_row, y.shape[1]), h, Bt).view_as(y)


def _own(y: Tensor) -> Tensor:
    """Y itself, or where autograd follows it a copy, which is changed in its place."""
    return y.clone() if y.requires_grad else y


REFERENCE: Mapping[type, Op] = {
    Whole: Op(_shrink_whole, _expand_whole),
    Segments: Op(_shrink_segments, _expand_segments),
    Padded: Op(_shrink_padded, _expand_padded),
    Gather: Op(_shrink_gather, _expand_gather),
}
BY_DEVICE: Mapping[str, Mapping[type, Op]] = {}
"""Twins of the reference by device type; each has a pair for every plan."""
