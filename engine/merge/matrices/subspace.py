"""The joint subspace of several low-rank matrices: where any combination of them is exact and small.

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
    """The parents of one module in their joint subspace: D_i = left·C_i·rightᵀ with `cores` the C_i (p, q).

    `size` is max(m, n), by which rounding errors grow.
    """

    left: Basis
    right: Basis
    cores: tuple[Tensor, ...]
    size: int

    def gram(self) -> Tensor:
        """The inner products <D_i, D_j> (parents, parents), Frobenius.

        Raises FloatingPointError where they overflow.
        """
        flat = torch.stack([core.flatten() for core in self.cores])
        products = flat @ flat.T
        if not bool(products.isfinite().all()):
            raise FloatingPointError("not all values are finite")
        return products


def span(stack: Tensor, *, precise: bool = False) -> Basis:
    """An orthonormal basis of the columns of `stack` (m, R), float64."""
    rows, columns = stack.shape
    if columns >= rows:
        return Basis(stack, None, None)
    if precise:
        return _by_reflections(stack)
    return _by_gram(stack) or _by_reflections(stack)


def cores(left: Basis, right: Basis, ranks: Sequence[int], scalings: Sequence[float]) -> tuple[Tensor, ...]:
    """The C_i of the parents whose factors, of ranks `ranks`, were stacked and spanned.

    Raises FloatingPointError where a factor holds a NaN or an infinity, or products overflow.
    """
    each = zip(scalings, *(torch.split(one.triangle, list(ranks), 1) for one in (left, right)), strict=True)
    found = tuple(scaling * (b @ a.T) for scaling, b, a in each)
    if not all(bool(core.isfinite().all()) for core in found):
        raise FloatingPointError("not all values are finite")
    return found


def spans(stacks: Tensor) -> list[Basis]:
    """`span` of every matrix of `stacks` (count, m, R), in common calls where it pays: on an accelerator."""
    _, rows, columns = stacks.shape
    if columns >= rows:
        return [Basis(stack, None, None) for stack in stacks]
    return [basis or _by_reflections(stack) for stack, basis in zip(stacks, _by_grams(stacks), strict=True)]


def _by_gram(stack: Tensor) -> Basis | None:
    return _by_grams(stack[None])[0]


def _by_grams(stacks: Tensor) -> list[Basis | None]:
    """Cholesky of the Gram matrices of the columns scaled to length one; None where it could lose accuracy."""
    grams = stacks.mT @ stacks
    lengths = grams.diagonal(dim1=-2, dim2=-1).sqrt()
    factors, failed = torch.linalg.cholesky_ex(grams / (lengths[:, :, None] * lengths[:, None, :]), upper=True)
    # Written so that a NaN (a zero column divides by zero) goes to the other route too.
    safe = (failed == 0) & (factors.diagonal(dim1=-2, dim2=-1) > PIVOT_FLOOR).all(1)
    triangles = factors * lengths[:, None, :]
    identity = torch.eye(lengths.shape[1], dtype=stacks.dtype, device=stacks.device)
    solvers = torch.linalg.solve_triangular(triangles, identity.expand_as(triangles), upper=True)
    each = zip(safe.tolist(), stacks, triangles, solvers, strict=True)
    return [Basis(triangle, stack, solver) if fits else None for fits, stack, triangle, solver in each]


def _by_reflections(stack: Tensor) -> Basis:
    Q, triangle = torch.linalg.qr(stack)
    return Basis(triangle, Q, None)
