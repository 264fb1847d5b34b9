"""`magnitude_prune`: the largest elements of each parent, summed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.merge.methods.elements import live, reduced, scale, summed, trim
from engine.merge.target import combination

if TYPE_CHECKING:
    from engine.merge.methods.table import Site
    from engine.merge.parts import Parts
    from engine.merge.target import Target


def magnitude_prune(parts: Parts, site: Site) -> Target:
    """λ·Σ w_i·D̃_i with trimmed D̃_i; exactly that sum where nothing is trimmed."""
    if site.options.density == 1:
        return combination(parts.joint, [scale(site) * weight for weight in site.weights])
    items, place = live(parts, site)
    prune = trim(items, place)
    return reduced(items, parts, place, prune, lambda kept: summed(kept, place))
