"""Bases that the parents of one module share, in coordinates of their joint subspace."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from engine.merge.matrices.subspace import FLOAT64_EPSILON

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from engine.merge.matrices.parts import Parts
    from engine.merge.matrices.subspace import Basis
    from engine.merge.table import Site

NOISE = 16 * FLOAT64_EPSILON
"""Times the largest dimension and singular value: up to there singular values are rounding."""


def taking_part(parts: Parts, site: Site) -> list[int]:
    """The places of the parents with a weight and a ΔW other than zero; the others leave no trace in a basis."""
    return [
        place
        for place, (weight, core) in enumerate(zip(site.weights, parts.joint.cores, strict=True))
        if weight and bool(core.any())
    ]


def left_singular(basis: Basis, blocks: Sequence[Tensor], size: int) -> Tensor:
    """The left singular vectors U (p, k) of `blocks` side by side, each (p, r): those of singular values that are not
    rounding.

    Each is signed so that its entry of largest magnitude is positive in the coordinates that `basis` lifts to.
    """
    U, S, _ = torch.linalg.svd(torch.cat(list(blocks), 1), full_matrices=False)
    vectors: Tensor = U[:, NOISE * size * S[0] < S]
    lifted = basis.lift(vectors)
    return vectors * torch.where(lifted.amax(0) >= -lifted.amin(0), 1.0, -1.0).to(vectors)
