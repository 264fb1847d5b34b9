"""Two parents of one module side by side, before they are merged: sums that add up over modules and groups.

README.md defines the numbers; engine/format/subspaces.py and engine/format/signs.py measure the same without torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import torch

from engine.format.samples import places
from engine.merge.subspace import FLOAT64_EPSILON

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from engine.merge.parts import Parts

    Pairs = Mapping[tuple[int, int], "PairSums"]


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
    """Orthonormal bases of the column and the row space of each D_i, in the joint subspace."""
    joint = parts.joint
    noise = FLOAT64_EPSILON * joint.size
    triangles = (torch.split(side.triangle, parts.ranks, 1) for side in (joint.left, joint.right))
    for b, a in zip(*triangles, strict=True):
        (left, upper), (right, other) = torch.linalg.qr(b), torch.linalg.qr(a)
        U, S, Vt = torch.linalg.svd(upper @ other.T, full_matrices=False)
        rank = int((noise * S[0] < S).sum())
        yield left @ U[:, :rank], right @ Vt[:rank].T


def _signs(parts: Parts) -> tuple[Tensor, Tensor, int]:
    """For every pair how many sampled elements are opposed, and how many nonzero in both; and how many were sampled.

    An element that rounding alone explains counts as zero: a dot product of length r errs by r·ε·‖b‖·‖a‖ at most.
    """
    rows, columns = places(*parts.shape)
    found = []
    for part in parts.items:
        B = part.B[rows].double()  # (rows, r)
        A = part.A[:, columns].double()  # (r, columns)
        D = B @ A
        noise = FLOAT64_EPSILON * A.shape[0] * torch.outer(B.norm(dim=1), A.norm(dim=0))
        found.append(torch.where(D.abs() > noise, torch.sign(part.scaling * D), 0.0).flatten())
    signs = torch.stack(found).float()  # counts stay below 2**24, where float32 is exact
    both = signs.abs() @ signs.abs().T
    return (both - signs @ signs.T) / 2, both, len(rows) * len(columns)
