"""The parents' factors of one module, in memory: what every method works from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from engine.merge.matrices.pairs import pair_sums
from engine.merge.matrices.subspace import Joint, cores, span, spans

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from engine.merge.matrices.pairs import Pairs
    from engine.merge.matrices.subspace import Basis


@dataclass(frozen=True, slots=True)
class Part:
    """One parent's factors of one module: D = scaling·B·A with B (m, r) and A (r, n), any float dtype."""

    B: Tensor
    A: Tensor
    scaling: float

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n) of D."""
        return self.B.shape[0], self.A.shape[1]

    def block(self, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop` of D (stop - start, n), float32."""
        return (self.scaling * self.B[start:stop].float()) @ self.A.float()

    def single(self) -> Part:
        """The same D with the scaling in B and both factors float32, for many blocks in turn."""
        return Part(self.scaling * self.B.float(), self.A.float(), 1.0)

    def elements(self, rows: Tensor, columns: Tensor) -> Tensor:
        """The elements of D at these places, float32."""
        return self.scaling * (self.B[rows].float() * self.A[:, columns].T.float()).sum(1)


class Parts:
    """All parents of one module, or of one group of a convolution. A class because it keeps what is derived from them
    once and used for every weighting: the stacked factors and the joint subspace.

    `precise` asks for full float64 accuracy, for results kept in float64.
    """

    def __init__(self, items: Sequence[Part], *, precise: bool = False) -> None:
        self.items = tuple(items)
        self.precise = precise

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n) of every D_i."""
        return self.items[0].shape

    @property
    def ranks(self) -> list[int]:
        """The r_i."""
        return [part.A.shape[0] for part in self.items]

    @cached_property
    def stacked_b(self) -> Tensor:
        """The B_i side by side, (m, R) float64."""
        return _stacked([part.B for part in self.items], 1)

    @cached_property
    def stacked_a(self) -> Tensor:
        """The A_i one above the other, (R, n) float64."""
        return _stacked([part.A for part in self.items], 0)

    @cached_property
    def joint(self) -> Joint:
        """The joint subspace.

        Raises FloatingPointError where a factor holds a NaN or an infinity, or products overflow.
        """
        return self.joined(span(self.stacked_b, precise=self.precise), span(self.stacked_a.T, precise=self.precise))

    def joined(self, left: Basis, right: Basis) -> Joint:
        """The joint subspace, given the bases of the stacked B_i and of the stacked A_iᵀ."""
        scalings = [part.scaling for part in self.items]
        return Joint(left, right, cores(left, right, self.ranks, scalings), max(self.shape))

    @cached_property
    def pairs(self) -> Pairs:
        """Every two of `items` side by side, by their places. Raises what `joint` does."""
        return pair_sums(self)

    @property
    def coordinates(self) -> list[tuple[Tensor, Tensor]]:
        """For each part s·B (p, r) and Aᵀ (q, r) in the bases of the joint subspace."""
        left, right = (torch.split(one.triangle, self.ranks, 1) for one in (self.joint.left, self.joint.right))
        return [(part.scaling * b, a) for part, b, a in zip(self.items, left, right, strict=True)]


def join_together(batch: Sequence[Parts]) -> None:
    """Finds the joint subspaces of parts of equal shapes and ranks in common calls, not one after the other.

    Parts that ask for full accuracy are left to find their own. Raises what `Parts.joint` does.
    """
    if any(parts.precise for parts in batch):
        return
    lefts = spans(torch.stack([parts.stacked_b for parts in batch]))
    rights = spans(torch.stack([parts.stacked_a.T for parts in batch]))
    for parts, left, right in zip(batch, lefts, rights, strict=True):
        parts.joint = parts.joined(left, right)  # what the property would have kept


def _stacked(tensors: Sequence[Tensor], dim: int) -> Tensor:
    """torch.cat in float64, each tensor converted where it will lie."""
    sizes = [tensor.shape[dim] for tensor in tensors]
    shape = list(tensors[0].shape)
    shape[dim] = sum(sizes)
    stack = torch.empty(shape, dtype=torch.float64, device=tensors[0].device)
    for place, tensor in zip(torch.split(stack, sizes, dim), tensors, strict=True):
        place.copy_(tensor)
    return stack
