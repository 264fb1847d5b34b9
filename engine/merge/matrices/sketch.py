"""The leading singular triplets of a dense matrix, by subspace iteration from a seeded start, with a bound.

Halko, Martinsson and Tropp 2011 (algorithm 4.4: an orthonormal basis after every product). The passes go on until they
no longer change what the first k hold. Q (m, q) being the basis they end with and E = T - QQᵀT what it misses, ‖T‖² is
‖QᵀT‖² + ‖E‖², and since TᵀT = TᵀQQᵀT + EᵀE (Ky Fan 1949) the squares of the k largest singular values
of T sum to no more than those of QᵀT and min(‖E‖², k·‖E‖₂²) together: no rank-k matrix can be nearer to T than what is
left then.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from engine.merge.matrices.rows import energy, row_blocks
from engine.merge.matrices.subspace import Basis
from engine.merge.matrices.target import Target

if TYPE_CHECKING:
    from torch import Tensor

OVERSAMPLE = 10
"""Directions beyond those that matter, at least; a quarter of those asked for where that is more."""

WIDEST = 4
"""The most directions for each that is asked for."""

MOST_STEPS = 12
GAIN = 1e-3
"""Steps end when the last one lowered the squared error by less than this share. Gains shrink by a constant factor or
faster, so that what is left to gain is of the same order: the error is within about GAIN / 2 of the best."""

PRECISE = 512
"""Matrices whose smaller side is at most this are taken apart in float64 where they are taken apart whole."""

NORM_STEPS, NORM_WIDTH = 3, 16

FLOAT32_EPSILON = torch.finfo(torch.float32).eps
NOTHING_LEFT = 1e-5
"""‖E‖/‖T‖ that float32 alone explains."""

ORDINARY = 1e-15, 1e15
"""Norms of matrices whose products, and the squares of those, neither overflow float32 nor vanish in it."""

IDENTITY = Basis(torch.empty(0, 0, dtype=torch.float64), None, None)


def sketch(matrix: Tensor, rank: int, *, seed: int, steep: int = 0) -> Target:
    """The first singular triplets of `matrix` (m, n) float32, `rank` of them and those beyond that come with them.

    `steep` is the number of singular values that stand out, where it is known: a sketch that holds them converges in
    fewer steps and leaves a smaller bound. Overwrites `matrix`. All triplets and no bound where `rank` is so near to
    min(m, n) that a whole decomposition costs no more, or where the rest is rounding. The same seed gives the same
    result on one machine with the same number of threads. Raises FloatingPointError where a value is not finite.
    """
    total = energy(matrix)
    width = max(rank, min(steep, WIDEST * rank)) + max(OVERSAMPLE, rank // 4)
    if 2 * width >= min(matrix.shape):
        return _whole(matrix)
    if total == 0:
        U, Vt = matrix[:, :1].double().expand(-1, width), matrix[:1].double().expand(width, -1)
        return _target(U, torch.zeros(width), Vt, 0.0, None)
    if not ORDINARY[0] < math.sqrt(total) < ORDINARY[1]:
        return _times(sketch(matrix.div_(math.sqrt(total)), rank, seed=seed, steep=steep), math.sqrt(total))
    Q, Z, U, S, V = _iterated(matrix, rank, width, seed, total)
    for start, stop in row_blocks((matrix.shape[0], matrix.shape[1])):
        matrix[start:stop].addmm_(Q[start:stop], Z.T, alpha=-1)
    rest = energy(matrix)
    S = torch.where(math.sqrt(total) * FLOAT32_EPSILON < S, S, 0.0)
    held = float(S.square().sum())
    if rest <= NOTHING_LEFT**2 * total:
        return _target(U, S, V.T, held, None)
    return _target(U, S, V.T, held + rest, _bound(S.tolist(), rank, rest, spectral_norm(matrix, seed=seed)))


def spectral_norm(matrix: Tensor, *, seed: int) -> float:
    """‖matrix‖₂ by a few power steps on a block of vectors: never above it, and a few per cent below where the
    largest singular values lie close together.
    """
    X = _normal(matrix, NORM_WIDTH, seed + 1)
    for _ in range(NORM_STEPS):
        Y = torch.linalg.qr(matrix @ X).Q
        X = matrix.T @ Y
    return float(torch.linalg.matrix_norm(X.double(), 2))


def _iterated(
    matrix: Tensor, rank: int, width: int, seed: int, total: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Q (m, q) orthonormal and Z = matrixᵀ·Q in float32, and U, S, V of Q·Zᵀ in float64."""
    P = _normal(matrix, width, seed)
    held = 0.0
    for step in range(MOST_STEPS):
        Q = torch.linalg.qr(matrix @ P).Q
        Z = matrix.T @ Q
        P, triangle = torch.linalg.qr(Z)
        right, S, left = torch.linalg.svd(triangle.double())
        before, held = held, float(S[:rank].square().sum())
        if step and held - before <= GAIN * max(total - held, 0.0):
            break
    return Q, Z, Q.double() @ left.T, S, P.double() @ right


def _bound(S: list[float], rank: int, rest: float, norm: float) -> float:
    """How many times the best rank-`rank` error ours can be.

    The best is no smaller than what Ky Fan leaves, nor than what follows the first `rank` of S, each of which is at
    most the singular value of the matrix at its place.
    """
    beyond = math.fsum(value**2 for value in S[rank:])
    least = max(beyond + rest - min(rest, rank * norm**2), beyond)
    return math.sqrt((beyond + rest) / least)


def _whole(matrix: Tensor) -> Target:
    wanted = matrix.double() if min(matrix.shape) <= PRECISE else matrix
    U, S, Vt = (tensor.double() for tensor in torch.linalg.svd(wanted, full_matrices=False))
    S = torch.where(float(S.norm()) * FLOAT32_EPSILON < S, S, 0.0)
    return _target(U, S, Vt, float(S.square().sum()), None)


def _target(U: Tensor, S: Tensor, Vt: Tensor, total: float, bound: float | None) -> Target:
    return Target(IDENTITY, IDENTITY, U, S.to(U), Vt, energy=total, bound=bound)


def _times(target: Target, factor: float) -> Target:
    return replace(target, S=target.S * factor, energy=target.energy * factor**2)


def _normal(matrix: Tensor, width: int, seed: int) -> Tensor:
    """Standard normal numbers (n, width), drawn on the CPU whatever the device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(matrix.shape[1], width, generator=generator).to(matrix)
