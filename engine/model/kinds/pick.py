"""The sections of a module that one step of a forward uses: those of one slot, or of every row its own slot's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from engine.model.batches.batch import BatchPlan
    from engine.model.batches.sealed import SealedLane
    from engine.model.sites.site import Site


class Pick:
    """One slot's adapter on a module, or each row's own (`index` (rows,) int64, None for one slot).

    `sections` are (*shape), or (slots, *shape) of which the index takes each row's. `axis` is the output's dimension
    along which vectors lie, from the end. `lane` is the plan that gave the index. `scale` multiplies the low-rank
    term; `factor`, a part of it, how much of the adapter's whole change there shall be: a number, or one per row
    (rows,).
    """

    __slots__ = ("axis", "dtype", "factor", "index", "lane", "scale", "sections", "slot")

    def __init__(
        self,
        site: Site,
        axis: int,
        slot: int = 0,
        factor: float = 1.0,
        *,
        index: Tensor | None = None,
        lane: BatchPlan | SealedLane | None = None,
    ) -> None:
        self.axis = axis
        self.slot = slot
        self.index = index
        self.lane = lane
        self.dtype = site.dtype
        self.sections: Mapping[str, Tensor] = site.stacks if index is not None else site.sections(slot)
        self.factor: float | Tensor = site.factor_numbers[slot] * factor if index is None else site.factors_of[index]
        self.scale: float | Tensor = site.numbers[slot] * factor if index is None else site.scales[index]

    def of(self, name: str) -> Tensor:
        """The section: (*shape), or (rows, *shape)."""
        section = self.sections[name]
        return section if self.index is None else section[self.index]

    def vector(self, name: str, like: Tensor, axis: int | None = None) -> Tensor:
        """A section of one dimension, in a shape that spreads over `like`."""
        axis = self.axis if axis is None else axis
        values = self.of(name)
        if self.index is None:
            return spread(values, like, axis)
        shape = [1] * like.dim()
        shape[0], shape[axis] = values.shape
        return values.view(shape)

    def number(self, value: float | Tensor, like: Tensor) -> float | Tensor:
        """A number, or one per row in a shape that spreads over `like`."""
        return value if isinstance(value, float) else value.view(-1, *([1] * (like.dim() - 1)))

    def taken(self, change: Tensor) -> Tensor:
        """The change as often as the adapter shall be taken."""
        factor = self.factor
        return change if isinstance(factor, float) and factor == 1.0 else change * self.number(factor, change)

    def scale_of(self, name: str, like: Tensor, axis: int) -> Tensor:
        """IA3's scale of that name, in a shape that spreads over `like`; exactly 1 where the adapter has none."""
        scale = self.vector(name, like, axis)
        there = self.vector(f"{name}_on", like, axis) > 0
        share = self.number(self.factor, like)
        return torch.where(there, scale * share + (1.0 - share), 1.0)


def picks(site: Site, plan: BatchPlan, x: Tensor, axis: int = -1) -> list[Pick]:
    """The steps of a forward, in order: one per active slot, or one per lane for all rows of x (rows, ...)."""
    if plan.whole is None:
        return [Pick(site, axis, index=lane.index(x.shape[0], x.device, site.path), lane=lane) for lane in plan.lanes]
    return [Pick(site, axis, slot, factor) for slot, factor in zip(plan.whole.slots, plan.whole.factors, strict=True)]


def spread(vector: Tensor, like: Tensor, axis: int) -> Tensor:
    """A vector (n,) in the shape that lies along that dimension of `like`."""
    shape = [1] * like.dim()
    shape[axis] = vector.shape[0]
    return vector.view(shape)
