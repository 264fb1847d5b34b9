"""TIES on given matrices, element by element (Yadav et al., arXiv 2306.01708): trim, elect a sign, disjoint mean.

Pure functions of any float dtype and shape, on whole matrices or on blocks of them: only `threshold` must see all of
what its share is counted over.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from engine.merge.dropping.thresholds import count

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor

    from engine.merge.given.options import Options


def threshold(matrix: Tensor, density: float) -> Tensor:
    """The least magnitude, a scalar, among the `density` share of largest ones; zero where all are kept."""
    kept = count(matrix.numel(), density)
    if kept == matrix.numel():
        return matrix.new_zeros(())
    return matrix.abs().flatten().kthvalue(matrix.numel() - kept + 1).values


def trimmed(matrix: Tensor, least: Tensor | float, *, factor: float = 1.0) -> Tensor:
    """`matrix` with zeros below the magnitude `least`, the rest times `factor`. Ties at `least` are all kept."""
    kept = matrix if float(least) == 0 else torch.nn.functional.hardshrink(matrix, _below(least, matrix.dtype))
    return kept * factor if factor != 1 else kept


def agreed(trims: Sequence[Tensor], weights: Sequence[float], options: Options) -> Tensor:
    """The elected sign's weighted mean of the trimmed matrices D̃_i, all of one shape, times λ.

    A sign is elected for every element from Σ c_i·v_i: c_i is w_i, or its sign (`elect` unweighted); v_i is D̃_i, or its
    sign (`majority_sign` frequency); zero elects +. The mean is λ·Σ w_i·D̃_i / Σ |w_i| over the i whose w_i·D̃_i has
    that sign, and zero where there is none. `options` are complete.
    """
    weights = _ordinary(weights)
    # A sum that began with +0 is never -0, so zero elects +.
    elected = torch.copysign(torch.ones_like(trims[0]), _votes(trims, weights, options))
    total, share = torch.zeros_like(elected), torch.zeros_like(elected)
    for trim, weight in zip(trims, weights, strict=True):
        # The magnitude of what agrees, zero elsewhere: where, and comparisons, take several times as long.
        agrees = (trim * weight).mul_(elected).clamp_min_(0.0)
        total += agrees
        share.add_(agrees.sign_(), alpha=abs(weight))
    factor = 1.0 if options.scale is None else options.scale
    # Where nobody agrees the sum is zero too.
    return total.mul_(elected).mul_(factor).div_(share.clamp_min_(torch.finfo(share.dtype).tiny))


def ties(matrices: Iterable[Tensor], weights: Sequence[float], options: Options) -> Tensor:
    """TIES of whole matrices of one shape, each trimmed by itself. `options` are complete, with a density."""
    density = 1.0 if options.density is None else options.density
    factor = 1 / density if options.rescale == "density" else 1.0
    trims = [trimmed(matrix, threshold(matrix, density), factor=factor) for matrix in matrices]
    return agreed(trims, weights, options)


def _votes(trims: Sequence[Tensor], weights: Sequence[float], options: Options) -> Tensor:
    votes = torch.zeros_like(trims[0])
    for trim, weight in zip(trims, weights, strict=True):
        sign = float((weight > 0) - (weight < 0))
        value = trim.sign() if options.majority_sign == "frequency" else trim
        votes.add_(value, alpha=sign if options.elect == "unweighted" else weight)
    return votes


def _ordinary(weights: Sequence[float]) -> list[float]:
    """The weights times a power of two, none above 1: only their ratio counts, and float32 holds what they multiply."""
    _, exponent = math.frexp(max(map(abs, weights), default=0.0))
    return [math.ldexp(weight, -exponent) for weight in weights]


def _below(value: Tensor | float, dtype: torch.dtype) -> float:
    """The next smaller number of this dtype: hardshrink drops its own bound, which is to be kept."""
    exact = torch.as_tensor(value, dtype=dtype)
    return float(torch.nextafter(exact, torch.zeros_like(exact)))
