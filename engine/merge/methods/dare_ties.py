"""`dare_ties`: elements dropped at random and the rest rescaled (Yu et al. 2023, arXiv 2311.03099), then as TIES."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.merge.methods.elements import drop, live, reduced
from engine.merge.methods.signs import agreed

if TYPE_CHECKING:
    from engine.merge.matrices.parts import Parts
    from engine.merge.matrices.target import Target
    from engine.merge.table import Site


def dare_ties(parts: Parts, site: Site) -> Target:
    """The mean of the masked D_i over those parents that agree with the elected sign."""
    items, place = live(parts, site)
    return reduced(items, parts, place, drop(place), lambda kept: agreed(kept, place.weights, place.options))
