"""TIES on given matrices, element by element (Yadav et al., arXiv 2306.01708): trim, elect a sign, disjoint mean.

Pure functions of any float dtype and shape, on whole matrices or on blocks of them: only `threshold` must see all of
what its share is counted over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor

    from engine.merge.options import Options


def count(size: int, density: float) -> int:
    """How many of `size` elements the share `density` is: rounded down as peft and mergekit do, at least one."""
    return max(1, int(density * size))


def threshold(matrix: Tensor, density: float) -> Tensor:
    """The least magnitude, a scalar, among the `density` share of largest ones; zero where all are kept."""
    kept = count(matrix.numel(), density)
    if kept == matrix.numel():
        return matrix.new_zeros(())
    return matrix.abs().flatten().kthvalue(matrix.numel() - kept + 1).values


def trimmed(matrix: Tensor, least: Tensor | float, *, factor: float = 1.0) -> Tensor:
    """`matrix` with zeros below the magnitude `least`, the rest times `factor`. Ties at `least` are all kept."""
    return torch.where(matrix.abs() >= least, matrix * factor, 0.0)


def agreed(trims: Sequence[Tensor], weights: Sequence[float], options: Options) -> Tensor:
    """The elected sign's weighted mean of the trimmed matrices D̃_i, all of one shape, times λ.

    A sign is elected for every element from Σ c_i·v_i: c_i is w_i, or its sign (`elect` unweighted); v_i is D̃_i, or its
    sign (`majority_sign` frequency); zero elects +. The mean is λ·Σ w_i·D̃_i / Σ |w_i| over the i whose w_i·D̃_i has
    that sign, and zero where there is none. `options` are complete.
    """
    positive = _votes(trims, weights, options) >= 0
    total, share = torch.zeros_like(trims[0]), torch.zeros_like(trims[0])
    for trim, weight in zip(trims, weights, strict=True):
        term = trim * weight
        agrees = torch.where(positive, term > 0, term < 0)
        total += torch.where(agrees, term, 0.0)
        share += agrees.to(share.dtype) * abs(weight)
    factor = 1.0 if options.scale is None else options.scale
    return torch.where(share > 0, factor * total / share, 0.0)


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
        votes += value * (sign if options.elect == "unweighted" else weight)
    return votes
