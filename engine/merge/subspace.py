"""The joint subspace of several low-rank matrices: where their sum is exact and small.

With D_i = s_i·B_i·A_i, stack B = [B_1 … B_n] = Qb·Rb (m, R) and A' = [A_1; …; A_n]ᵀ = Qa·Ra (n, R). Then
D_i = Qb·C_i·Qaᵀ with C_i = s_i·Rb[:, i]·Ra[:, i]ᵀ, so sums, norms, angles and singular values of the D_i are those of
the small C_i (Eckart and Young 1936 for the best rank k). Everything here is float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

PIVOT_FLOOR = 1e-2
"""Smallest pivot of the scaled Gram matrix that Cholesky is trusted with.

Its error in the basis is about u·R/pivot², here under 1e-10: three orders below one float32 rounding. Columns nearer to
dependence than that (duplicated parents, zero factors) take Householder reflections, which have no such limit.
"""

FLOAT64_EPSILON = torch.finfo(torch.float64).eps


@dataclass(frozen=True, slots=True)
class Part:
    """One parent's factors of one module: D = scaling·B·A with B (m, r) and A (r, n), any float dtype."""

    B: Tensor
    A: Tensor
    scaling: float
    weight: float


@dataclass(frozen=True, slots=True)
class Basis:
    """Orthonormal columns Q (m, p) of a stack X = Q·R with `triangle` R (p, R), not necessarily formed.

    Q = carrier·solver. `solver` None stands for the identity; so does `carrier`, with Q the identity then.
    """

    triangle: Tensor
    carrier: Tensor | None
    solver: Tensor | None

    def lift(self, core: Tensor) -> Tensor:
        """Q·core: (p, k) to (m, k)."""
        if self.carrier is None:
            return core
        return self.carrier @ (core if self.solver is None else self.solver @ core)


@dataclass(frozen=True, slots=True)
class Joint:
    """The parents of one module in their joint subspace, and the singular values of their weighted sum.

    `cores` are the C_i (p, q), `weights` the w_i; Σ w_i·C_i = U·diag(S)·Vt. Values of S that rounding alone explains
    are exactly zero.
    """

    left: Basis
    right: Basis
    cores: tuple[Tensor, ...]
    weights: tuple[float, ...]
    U: Tensor
    S: Tensor
    Vt: Tensor


def join(parts: Sequence[Part], *, precise: bool = False) -> Joint:
    """The joint subspace of `parts`; `precise` asks for full float64 accuracy, for results kept in float64.

    Raises FloatingPointError where a factor holds a NaN or an infinity, or products overflow.
    """
    left = span(_stacked([part.B for part in parts], 1), precise=precise)
    right = span(_stacked([part.A for part in parts], 0).T, precise=precise)
    ranks = [part.A.shape[0] for part in parts]
    pairs = zip(parts, torch.split(left.triangle, ranks, 1), torch.split(right.triangle, ranks, 1), strict=True)
    cores = tuple(part.scaling * (b @ a.T) for part, b, a in pairs)
    weights = tuple(part.weight for part in parts)
    total = sum((weight * core for weight, core in zip(weights, cores, strict=True)), torch.zeros_like(cores[0]))
    if not bool(total.isfinite().all()):
        raise FloatingPointError("not all values are finite")
    U, S, Vt = torch.linalg.svd(total, full_matrices=False)
    scale = sum(abs(weight) * float(core.norm()) for weight, core in zip(weights, cores, strict=True))
    size = max(parts[0].B.shape[0], parts[0].A.shape[1])
    # Relative to the parents, not to S[0]: in A - A every singular value is rounding, the largest too.
    S = torch.where(FLOAT64_EPSILON * size * scale < S, S, 0.0)
    return Joint(left, right, cores, weights, U, S, Vt)


def span(stack: Tensor, *, precise: bool = False) -> Basis:
    """An orthonormal basis of the columns of `stack` (m, R), float64."""
    rows, columns = stack.shape
    if columns >= rows:
        return Basis(stack, None, None)
    if precise:
        return _by_reflections(stack)
    return _by_gram(stack) or _by_reflections(stack)


def _stacked(tensors: Sequence[Tensor], dim: int) -> Tensor:
    """torch.cat in float64, each tensor converted where it will lie."""
    sizes = [tensor.shape[dim] for tensor in tensors]
    shape = list(tensors[0].shape)
    shape[dim] = sum(sizes)
    stack = torch.empty(shape, dtype=torch.float64)
    for place, tensor in zip(torch.split(stack, sizes, dim), tensors, strict=True):
        place.copy_(tensor)
    return stack


def _by_gram(stack: Tensor) -> Basis | None:
    """Cholesky of the Gram matrix of the columns scaled to length one; None where it could lose accuracy."""
    gram = stack.T @ stack
    lengths = gram.diagonal().sqrt()
    factor, failed = torch.linalg.cholesky_ex(gram / torch.outer(lengths, lengths), upper=True)
    # Written so that a NaN (a zero column divides by zero) goes to the other route too.
    if int(failed) or not bool((factor.diagonal() > PIVOT_FLOOR).all()):
        return None
    triangle = factor * lengths
    identity = torch.eye(len(lengths), dtype=stack.dtype)
    return Basis(triangle, stack, torch.linalg.solve_triangular(triangle, identity, upper=True))


def _by_reflections(stack: Tensor) -> Basis:
    Q, triangle = torch.linalg.qr(stack)
    return Basis(triangle, Q, None)
