"""`model_stock`: the mean of the ΔW, shortened by how far they disagree (Jang et al., arXiv 2403.19522)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.errors import OptionError
from engine.merge.matrices.target import combination

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from engine.merge.matrices.parts import Parts
    from engine.merge.matrices.target import Target
    from engine.merge.table import Site


def model_stock(parts: Parts, site: Site) -> Target:
    """(t/N)·Σ D_i with t = N·c/(1 + (N-1)·c), N all parents and c the mean cosine of their pairs.

    A zero or absent ΔW has cosine 0 with all. Where c is not positive, t is 0: the base model's own weights.
    """
    parents = len(site.weights) + len(site.absent)
    cosine = max(0.0, _pairs(parts.joint.gram()) / (parents * (parents - 1)))
    ratio = parents * cosine / (1 + (parents - 1) * cosine)
    return combination(parts.joint, [ratio / parents] * len(site.weights))


def equal_weights(weights: Sequence[float]) -> None:
    """Raises OptionError for weights that ask for more than one of each parent."""
    if len(set(weights)) > 1 or min(weights) <= 0:
        told = ", ".join(f"{weight:g}" for weight in weights)
        raise OptionError(f"model_stock weights {told}: expected equal ones above 0, since it chooses its own")


def _pairs(gram: Tensor) -> float:
    """The sum of cosines over ordered pairs of different parents."""
    lengths = gram.diagonal().sqrt()
    # A zero length stays in the quotient as zero over one.
    lengths = lengths.where(lengths > 0, 1.0)
    cosines = gram / lengths[:, None] / lengths
    return float(cosines.sum() - cosines.diagonal().sum())
