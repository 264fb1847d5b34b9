"""`dare_linear`: elements dropped at random and the rest rescaled (Yu et al. 2023, arXiv 2311.03099), then summed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.merge.matrices.target import combination
from engine.merge.methods.elements import drop, live, reduced, scale, summed

if TYPE_CHECKING:
    from engine.merge.matrices.parts import Parts
    from engine.merge.matrices.target import Target
    from engine.merge.table import Site


def dare_linear(parts: Parts, site: Site) -> Target:
    """λ·Σ w_i·D̃_i with masked D̃_i; exactly that sum where nothing is dropped."""
    if site.options.density == 1:
        return combination(parts.joint, [scale(site) * weight for weight in site.weights])
    items, place = live(parts, site)
    return reduced(items, parts, place, drop(place), lambda kept: summed(kept, place))
