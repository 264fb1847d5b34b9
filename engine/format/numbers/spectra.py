"""Which rank keeps which share of a matrix, from its singular values alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_NOISE = 1e-12


def rank_for(levels: Sequence[float], energy: float, share: float) -> int | None:
    """The fewest of `levels` (squared singular values, descending) that hold `share` of `energy`, the sum of all of
    them; None where `levels` are only the largest and do not hold it.
    """
    # What is lost, not what is kept: 1e-12 of a sum would vanish beside it.
    lost = [max(energy - math.fsum(levels), 0.0)]
    for level in reversed(levels):
        lost.append(lost[-1] + level)
    allowed = (1 - share + _NOISE) * energy
    return next((count for count, rest in enumerate(reversed(lost)) if rest <= allowed), None)
