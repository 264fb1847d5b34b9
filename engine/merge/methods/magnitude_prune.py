"""`magnitude_prune`: the largest elements of each parent, summed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.merge.matrices.target import combination
from engine.merge.methods.elements import live, reduced, scale, summed, trim

if TYPE_CHECKING:
    from engine.merge.matrices.parts import Parts
    from engine.merge.matrices.target import Target
    from engine.merge.table import Site


def magnitude_prune(parts: Parts, site: Site) -> Target:
    """λ·Σ w_i·D̃_i with trimmed D̃_i; exactly that sum where nothing is trimmed."""
    if site.options.density == 1:
        return combination(parts.joint, [scale(site) * weight for weight in site.weights])
    items, place = live(parts, site)
    prune = trim(items, place)
    return reduced(items, parts, place, prune, lambda kept: summed(kept, place))
