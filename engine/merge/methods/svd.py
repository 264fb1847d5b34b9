"""`svd`: the best rank-k approximation of the weighted sum (Eckart and Young 1936)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.merge.target import combination

if TYPE_CHECKING:
    from engine.merge.methods.table import Site
    from engine.merge.parts import Parts
    from engine.merge.target import Target


def svd(parts: Parts, site: Site) -> Target:
    """Σ w_i·D_i, exact in the joint subspace, where its singular values are those of a small matrix."""
    return combination(parts.joint, site.weights)
