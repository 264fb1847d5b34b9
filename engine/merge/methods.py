"""Merge methods: a table of pure functions from the parts of one module to the factors of the result.

Every function takes the parts, their joint subspace and the rank k, and gives B (m, k) and A (k, n) in float64 with
B·A the merged ΔW.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from engine.merge.subspace import Joint, Part, join

if TYPE_CHECKING:
    from torch import Tensor

Combine = Callable[[Sequence[Part], Joint, int], "tuple[Tensor, Tensor]"]


@dataclass(frozen=True, slots=True)
class Method:
    """A row of the table. `exact` methods have the sum of the parents' ranks and take no other; `summary` is help."""

    combine: Combine
    exact: bool
    summary: str


def stack(parts: Sequence[Part], joint: Joint, rank: int) -> tuple[Tensor, Tensor]:
    """Σ w_i·s_i·B_i·A_i with nothing computed: the B_i side by side, the w_i·s_i·A_i one above the other."""
    del joint, rank
    B = torch.cat([part.B.double() for part in parts], dim=1)
    A = torch.cat([(part.weight * part.scaling) * part.A.double() for part in parts], dim=0)
    return B, A


def truncate(parts: Sequence[Part], joint: Joint, rank: int) -> tuple[Tensor, Tensor]:
    """The best rank-k approximation of Σ w_i·s_i·B_i·A_i in the Frobenius norm, √S on either factor.

    The entry of largest magnitude in each column of B is positive. Columns past the numerical rank are zero.
    """
    del parts
    kept = min(rank, len(joint.S))
    root = joint.S[:kept].sqrt()
    B = joint.left.lift(joint.U[:, :kept] * root)
    A = joint.right.lift(joint.Vt[:kept].T * root)
    signs = torch.where(B.amax(0) >= -B.amin(0), 1.0, -1.0).to(B.dtype)
    if kept < rank:
        missing = (0, rank - kept)
        B, A, signs = (torch.nn.functional.pad(tensor, missing) for tensor in (B, A, signs))
    return B * signs, (A * signs).T


METHODS = {
    "cat": Method(stack, exact=True, summary="exact: the parents' factors stacked, rank the sum of theirs"),
    "linear": Method(stack, exact=True, summary="exact: the weighted sum of the ΔW, in stacked factors as cat"),
    "svd": Method(truncate, exact=False, summary="the best rank-N approximation of the weighted sum of the ΔW"),
}


def svd(parts: Sequence[Part], *, rank: int) -> tuple[Tensor, Tensor]:
    """The best rank-`rank` factors of Σ w_i·s_i·B_i·A_i, from tensors in memory: B (m, k) and A (k, n) in float64."""
    return truncate(parts, join(parts), rank)
