"""`svd`: the best rank-k approximation of the weighted sum (Eckart and Young 1936)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.merge.matrices.rows import filled
from engine.merge.matrices.sketch import sketch
from engine.merge.matrices.target import combination

if TYPE_CHECKING:
    from torch import Tensor

    from engine.merge.matrices.parts import Parts
    from engine.merge.matrices.target import Target
    from engine.merge.table import Site


def svd(parts: Parts, site: Site) -> Target:
    """Σ w_i·D_i, exact in the joint subspace, where its singular values are those of a small matrix.

    Where parents are dense (DoRA) that matrix is as large as the sum, which then is sketched.
    """
    if max(parts.ranks) < min(parts.shape) or min(parts.shape) <= SMALL:
        return combination(parts.joint, site.weights)

    def summed(blocks: list[Tensor], start: int) -> Tensor:
        del start
        terms = [block.mul_(weight) for block, weight in zip(blocks, site.weights, strict=True)]
        total = terms[0]
        for term in terms[1:]:
            total += term
        return total

    return sketch(filled(parts.items, parts.shape, summed), site.rank, seed=0)


SMALL = 512
"""The smaller side up to which a whole decomposition is cheap."""
