"""`core_ties`: TIES on small cores in a common basis of the factors (Core Space, arXiv 2509.17786)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.merge.matrices.subspace import FLOAT64_EPSILON
from engine.merge.matrices.target import combination, from_core
from engine.merge.methods.bases import left_singular, taking_part
from engine.merge.methods.signs import ties

if TYPE_CHECKING:
    from engine.merge.matrices.parts import Parts
    from engine.merge.matrices.target import Target
    from engine.merge.table import Site


def core_ties(parts: Parts, site: Site) -> Target:
    """U·TIES(Uᵀ·D_i·V)·Vᵀ with U the left singular vectors of [s_1·B_1 … s_n·B_n] and V the right ones of the A_i
    stacked.

    The basis decides the result: singular vectors, no other basis of the same subspaces.
    """
    joint, places = parts.joint, taking_part(parts, site)
    if not places:
        return combination(joint, [0.0] * len(parts.items))
    pairs = [parts.coordinates[place] for place in places]
    U = left_singular(joint.left, [b for b, _ in pairs], joint.size)
    V = left_singular(joint.right, [a for _, a in pairs], joint.size)
    cores = [(U.T @ b) @ (a.T @ V) for b, a in pairs]
    merged = ties(cores, [site.weights[place] for place in places], site.options)
    noise = FLOAT64_EPSILON * joint.size * float(merged.norm())
    return from_core(joint.left, U @ merged @ V.T, joint.right, noise=noise)
