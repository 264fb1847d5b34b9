"""Two parents of one module side by side, before they are merged: sums that add up over modules and groups.

measuring/README.md defines the numbers; engine/format/numbers measures the same without torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import torch

from engine.format.numbers.samples import places
from engine.merge.matrices.subspace import FLOAT64_EPSILON

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from engine.merge.matrices.parts import Parts

    Pairs = Mapping[tuple[int, int], "PairSums"]


WIDEST = 1024
"""Ranks of a parent up to which its spaces are measured: beyond (a DoRA's ΔW) that would cost more than the merge."""


@dataclass(frozen=True, slots=True)
class PairSums:
    """Sums over the pair's modules: `inner` <D_i, D_j>; of columns and of rows ‖U_iᵀU_j‖² and the most it could be.

    `opposed` elements have opposite signs among `both` where neither is zero, each counted for as many as its sample
    stands for; `elements` were looked at.
    """

    inner: float
    columns: float
    columns_most: int
    rows: float
    rows_most: int
    opposed: float
    both: float
    elements: int

    def __add__(self, other: PairSums) -> PairSums:
        return PairSums(
            inner=self.inner + other.inner,
            columns=self.columns + other.columns,
            columns_most=self.columns_most + other.columns_most,
            rows=self.rows + other.rows,
            rows_most=self.rows_most + other.rows_most,
            opposed=self.opposed + other.opposed,
            both=self.both + other.both,
            elements=self.elements + other.elements,
        )


def pair_sums(parts: Parts) -> Pairs:
    """Every pair of parts by their places in `parts`, from factors alone."""
    count = len(parts.items)
    if count < 2:
        return {}
    gram, spaces, (opposed, both, elements) = parts.joint.gram(), list(_spaces(parts)), _signs(parts)
    whole = parts.shape[0] * parts.shape[1] / elements
    found = {}
    for i, j in combinations(range(count), 2):
        (columns_i, rows_i), (columns_j, rows_j) = spaces[i], spaces[j]
        found[i, j] = PairSums(
            inner=float(gram[i, j]),
            columns=float((columns_i.T @ columns_j).square().sum()),
            columns_most=min(columns_i.shape[1], columns_j.shape[1]),
            rows=float((rows_i.T @ rows_j).square().sum()),
            rows_most=min(rows_i.shape[1], rows_j.shape[1]),
            opposed=whole * float(opposed[i, j]),
            both=whole * float(both[i, j]),
            elements=elements,
        )
    return found


def _spaces(parts: Parts) -> Iterator[tuple[Tensor, Tensor]]:
    """Orthonormal bases of the column and the row space of each D_i, in the joint subspace; of no vector where the rank
    is above `WIDEST`.
    """
    joint = parts.joint
    noise = FLOAT64_EPSILON * joint.size
    triangles = (torch.split(side.triangle, parts.ranks, 1) for side in (joint.left, joint.right))
    for b, a in zip(*triangles, strict=True):
        if b.shape[1] > WIDEST:
            yield b[:, :0], a[:, :0]
            continue
        (left, upper), (right, other) = torch.linalg.qr(b), torch.linalg.qr(a)
        U, S, Vt = torch.linalg.svd(upper @ other.T, full_matrices=False)
        rank = int((noise * S[0] < S).sum())
        yield left @ U[:, :rank], right @ Vt[:rank].T


def _signs(parts: Parts) -> tuple[Tensor, Tensor, int]:
    """For every pair how many sampled elements are opposed, and how many nonzero in both; and how many were sampled.

    An element that rounding alone explains counts as zero: a dot product of length r errs by r·ε·‖b‖·‖a‖ at most.
    """
    device = parts.items[0].B.device
    rows, columns = (torch.tensor(one, device=device) for one in places(*parts.shape))
    size = len(rows) * len(columns)
    # counts stay below 2**24, where float32 is exact
    positive, negative = (torch.empty(len(parts.items), size, device=device) for _ in range(2))
    for place, part in enumerate(parts.items):
        B = torch.nn.functional.normalize(part.B.index_select(0, rows).double(), dim=1, eps=0.0).nan_to_num(
            0.0
        )  # (rows, r)
        A = torch.nn.functional.normalize(part.A.index_select(1, columns).double(), dim=0, eps=0.0).nan_to_num(
            0.0
        )  # (r, columns)
        D = (B @ A).flatten()
        noise = FLOAT64_EPSILON * A.shape[0]
        over, under = (positive, negative) if part.scaling >= 0 else (negative, positive)
        over[place].copy_(noise < D)
        under[place].copy_(-noise > D)
    opposed, either = positive @ negative.T, positive + negative
    return opposed + opposed.T, either @ either.T, size
