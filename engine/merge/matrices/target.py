"""What a method makes of one module: the merged ΔW in singular form, from which any rank is cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from engine.merge.matrices.subspace import FLOAT64_EPSILON, Basis

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from engine.merge.matrices.subspace import Joint


@dataclass(frozen=True, slots=True)
class Target:
    """The merged ΔW, D = left·U·diag(S)·Vt·rightᵀ + a rest: U (p, t), S (t) descending, Vt (t, q), float64.

    `energy` is ‖D‖² (Frobenius), the rest included; no rest where `bound` is None. Else D was too large to take apart
    whole, and `bound` is a number that the error of the best rank-k result, times `bound`, exceeds ours.
    `given` are factors B (m, k) and A (k, n) with B·A = D that the method wants kept as they are. `departure` is
    ‖D - Σ w_i·D_i‖² and ‖Σ w_i·D_i‖² of a method that works on factors and so adds cross terms.
    """

    left: Basis
    right: Basis
    U: Tensor
    S: Tensor
    Vt: Tensor
    energy: float
    bound: float | None = None
    given: tuple[Tensor, Tensor] | None = None
    departure: tuple[float, float] | None = None

    def factors(self, rank: int) -> tuple[Tensor, Tensor]:
        """B (m, rank) and A (rank, n), float64: those given, or the best approximation in the Frobenius norm.

        √S on either factor; the entry of largest magnitude in each column of B is positive; columns past the numerical
        rank are zero.
        """
        if self.given is not None:
            return self.given
        kept = min(rank, len(self.S))
        root = self.S[:kept].sqrt()
        B = self.left.lift(self.U[:, :kept] * root)
        A = self.right.lift(self.Vt[:kept].T * root)
        signs = torch.where(B.amax(0) >= -B.amin(0), 1.0, -1.0).to(B)
        if kept < rank:
            missing = (0, rank - kept)
            B, A, signs = (torch.nn.functional.pad(tensor, missing) for tensor in (B, A, signs))
        return B * signs, (A * signs).T


def combination(joint: Joint, coefficients: Sequence[float]) -> Target:
    """Σ c_i·D_i. Singular values that rounding alone explains are exactly zero."""
    pairs = list(zip(coefficients, joint.cores, strict=True))
    total = sum((weight * core for weight, core in pairs), torch.zeros_like(joint.cores[0]))
    # Relative to the parents, not to S[0]: in A - A every singular value is rounding, the largest too.
    scale = sum(abs(weight) * float(core.norm()) for weight, core in pairs)
    return from_core(joint.left, total, joint.right, noise=FLOAT64_EPSILON * joint.size * scale)


def from_core(left: Basis, core: Tensor, right: Basis, *, noise: float) -> Target:
    """left·core·rightᵀ with core (p, q); singular values up to `noise` count as zero."""
    if not bool(core.isfinite().all()):
        raise FloatingPointError("not all values are finite")
    # Small, and one after the other: an accelerator would be slower at it.
    U, S, Vt = (one.to(core.device) for one in torch.linalg.svd(core.cpu(), full_matrices=False))
    S = torch.where(noise < S, S, 0.0)
    return Target(left, right, U, S, Vt, energy=float(S.square().sum()))
