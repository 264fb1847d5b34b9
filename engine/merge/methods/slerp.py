"""`slerp`: two ΔW joined along the arc between them (Shoemake 1985), not along the chord."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from engine.errors import OptionError
from engine.merge.matrices.target import combination

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.merge.matrices.parts import Parts
    from engine.merge.matrices.target import Target
    from engine.merge.table import Site

PARALLEL = 0.9995
"""From this |cosine| on the chord is taken: sin θ would divide by too little. mergekit's number."""


def slerp(parts: Parts, site: Site) -> Target:
    """λ·(sin((1-t)θ)·D_0 + sin(tθ)·D_1)/sin θ with t = w_1/(w_0 + w_1) and θ the angle between D_0 and D_1.

    λ·((1-t)·D_0 + t·D_1) where they are parallel, or where one is zero or absent and θ means nothing.
    """
    total = math.fsum([*site.weights, *site.absent])
    shares = [weight / total for weight in site.weights]
    cosine = _cosine(parts)
    if cosine is not None and abs(cosine) <= PARALLEL:
        angle = math.acos(cosine)
        shares = [math.sin(share * angle) / math.sin(angle) for share in shares]
    factor = 1.0 if site.options.scale is None else site.options.scale
    return combination(parts.joint, [factor * share for share in shares])


def slerp_weights(weights: Sequence[float]) -> None:
    """Raises OptionError for weights from which no place on the arc follows."""
    if min(weights) < 0 or not math.fsum(weights) > 0:
        told = " and ".join(f"{weight:g}" for weight in weights)
        raise OptionError(f"slerp weights {told}: expected 0 or more each, and not all 0")


def _cosine(parts: Parts) -> float | None:
    """Of the angle between two ΔW; None where there is no angle."""
    if len(parts.items) < 2:
        return None
    gram = parts.joint.gram()
    length = math.sqrt(float(gram[0, 0])) * math.sqrt(float(gram[1, 1]))
    return float(gram[0, 1]) / length if length else None
