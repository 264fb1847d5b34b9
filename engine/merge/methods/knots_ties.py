"""`knots_ties`: TIES on the ΔW in the basis of their joint SVD (KnOTS, Stoica et al., arXiv 2410.19735)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from engine.merge.matrices.subspace import FLOAT64_EPSILON, span
from engine.merge.matrices.target import combination, from_core
from engine.merge.methods.bases import left_singular, taking_part
from engine.merge.methods.signs import ties

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from engine.merge.matrices.parts import Parts
    from engine.merge.matrices.target import Target
    from engine.merge.table import Site


def knots_ties(parts: Parts, site: Site) -> Target:
    """U·TIES(S·V_i) with [D_1 … D_n] = U·S·[V_1 … V_n] (m, n·columns), exact: the S·V_i (R, n) are Uᵀ·D_i."""
    joint, places = parts.joint, taking_part(parts, site)
    if not places:
        return combination(joint, [0.0] * len(parts.items))
    # Columns of D_i in an orthonormal basis of its rows: the same U and S, and R columns instead of n for each parent.
    short = [b @ torch.linalg.qr(a).R.T for b, a in (parts.coordinates[place] for place in places)]
    U = left_singular(joint.left, short, joint.size)
    merged = ties(_aligned(parts, places, U), [site.weights[place] for place in places], site.options)
    right = span(merged.T, precise=parts.precise)
    noise = FLOAT64_EPSILON * joint.size * float(merged.norm())
    return from_core(joint.left, U @ right.triangle.T, right, noise=noise)


def _aligned(parts: Parts, places: Sequence[int], U: Tensor) -> Iterator[Tensor]:
    """Uᵀ·D_i of each, one after the other so that TIES can drop what it has trimmed."""
    stacks = torch.split(parts.stacked_a, parts.ranks, 0)
    for place in places:
        yield (U.T @ parts.coordinates[place][0]) @ stacks[place]
