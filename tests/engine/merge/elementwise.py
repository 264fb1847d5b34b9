"""The elementwise methods' definitions in float64 numpy, one parent's whole ΔW at a time, and parents to try them on."""

import numpy as np
import torch

from engine.merge import METHODS, Options, Part, Parts, Site
from engine.merge.given.options import complete


def part(rows, columns, rank, seed, *, scaling=2.25, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    B, A = (torch.randn(shape, generator=generator) * 0.3 for shape in ((rows, rank), (rank, columns)))
    return Part(B.to(dtype), A.to(dtype), scaling)


def dense(one):
    return one.scaling * (one.B.double() @ one.A.double()).numpy()


def combined(method, parts, weights, *, rank, keys=("p", "q", "r", "s"), thresholds=(), module="m", group=0, **options):
    """The method's target for parts in memory, with trimming over each matrix unless said."""
    row = METHODS[method]
    given = {"trim": "tensor", **options} if "trim" in row.defaults else options
    site = Site(
        weights=weights,
        rank=rank,
        module=module,
        group=group,
        keys=keys[: len(parts)],
        thresholds=thresholds,
        options=complete(Options(**given), row.defaults, method=method),
    )
    return row.combine(Parts(parts), site)


def product(target, rank):
    B, A = target.factors(rank)
    return (B @ A).numpy()


def trimmed(matrix, density, *, rescale=False):
    """The largest magnitudes, int(density·size) of them and all that tie with the least of these."""
    kept = max(1, int(density * matrix.size))
    least = np.sort(np.abs(matrix), axis=None)[::-1][kept - 1]
    return np.where(np.abs(matrix) >= least, matrix, 0.0) / (density if rescale else 1.0)


def disjoint_mean(pruned, weights, *, elect="weighted", majority_sign="total", scale=1.0):
    """The elected sign's weighted mean; a vote that is zero elects +, nobody agreeing gives zero."""
    stack, w = np.stack(pruned), np.reshape(weights, (-1, 1, 1))
    counted = np.sign(w) if elect == "unweighted" else w
    positive = (counted * (np.sign(stack) if majority_sign == "frequency" else stack)).sum(0) >= 0
    agreeing = np.sign(w * stack) == np.where(positive, 1, -1)
    share = (np.abs(w) * agreeing).sum(0)
    return scale * (w * stack * agreeing).sum(0) / np.where(share > 0, share, 1.0)
