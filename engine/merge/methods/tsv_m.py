"""`tsv_m`: the parents' singular vectors, made orthogonal to one another (Gargiulo et al., arXiv 2412.00081)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from engine.merge.matrices.subspace import FLOAT64_EPSILON
from engine.merge.matrices.target import combination, from_core
from engine.merge.methods.bases import NOISE, taking_part

if TYPE_CHECKING:
    from torch import Tensor

    from engine.merge.matrices.parts import Parts
    from engine.merge.matrices.target import Target
    from engine.merge.table import Site

DEPENDENT = 1e-10
"""Eigenvalues of a Gram matrix of unit vectors up to here, times the largest, are directions that others span."""


def tsv_m(parts: Parts, site: Site) -> Target:
    """λ·U'·diag(w_i·S_i)·V'ᵀ: the largest floor(d/T) singular values of each of T parents, d = min(m, n), with U' and
    V' the orthonormal matrices nearest to the singular vectors side by side.
    """
    joint, places = parts.joint, taking_part(parts, site)
    if not places:
        return combination(joint, [0.0] * len(parts.items))
    most = max(1, min(parts.shape) // len(places))
    found = [_largest(*parts.coordinates[place], most, joint.size) for place in places]
    U, V = (nearest_orthonormal(torch.cat([one[side] for one in found], 1)) for side in (0, 2))
    scale = 1.0 if site.options.scale is None else site.options.scale
    S = torch.cat([scale * site.weights[place] * one[1] for place, one in zip(places, found, strict=True)])
    return from_core(joint.left, (U * S) @ V.T, joint.right, noise=FLOAT64_EPSILON * joint.size * float(S.norm()))


def nearest_orthonormal(vectors: Tensor) -> Tensor:
    """The polar factor X·(XᵀX)^(-1/2) of unit vectors X (p, k), the inverse taken where XᵀX has one.

    Directions of dependent vectors are dropped: of two equal ones each becomes 1/√2 of theirs.
    """
    levels, directions = torch.linalg.eigh(vectors.T @ vectors)
    kept = levels > DEPENDENT * levels[-1]
    directions = directions[:, kept]
    inverse: Tensor = (directions * levels[kept].rsqrt()) @ directions.T
    return vectors @ inverse


def _largest(b: Tensor, a: Tensor, most: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """U (p, k), S and V (q, k) of b·aᵀ for b (p, r) and a (q, r), as many as `most` and as are not rounding."""
    (left, lower), (right, upper) = torch.linalg.qr(b), torch.linalg.qr(a)
    U, S, Vt = torch.linalg.svd(lower @ upper.T, full_matrices=False)
    kept = min(most, int((NOISE * size * S[0] < S).sum()))
    return left @ U[:, :kept], S[:kept], right @ Vt[:kept].T
