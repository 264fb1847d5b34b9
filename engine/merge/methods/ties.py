"""`ties`: trim, elect signs, disjoint mean (Yadav et al. 2023, arXiv 2306.01708), on the full ΔW."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.merge.methods.elements import live, reduced, trim
from engine.merge.methods.signs import agreed

if TYPE_CHECKING:
    from engine.merge.matrices.parts import Parts
    from engine.merge.matrices.target import Target
    from engine.merge.table import Site


def ties(parts: Parts, site: Site) -> Target:
    """The mean of the trimmed D_i over those parents that agree with the elected sign."""
    items, place = live(parts, site)
    prune = trim(items, place)
    return reduced(items, parts, place, prune, lambda kept: agreed(kept, place.weights, place.options))
