"""PEFT's types that work on ΔW: `svd` and those whose names end in `_svd`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from engine.merge.matrices.subspace import Basis
from engine.merge.matrices.target import Target, combination

if TYPE_CHECKING:
    from torch import Tensor

    from engine.merge.matrices.parts import Part, Parts
    from engine.merge.peft.operators import Operator
    from engine.merge.table import Site


def svd(parts: Parts, site: Site) -> Target:
    """Σ w_i·D_i: PEFT's dense SVD and the joint subspace give the same product."""
    return combination(parts.joint, [site.inflation * weight for weight in site.weights])


def dense(parts: Parts, site: Site, *, operator: Operator) -> Target:
    """f({D_i}, w_i) in float32, whole matrices, and all of its singular values.

    Random numbers meet the elements in the order in which PEFT lays the weight out: an embedding's, and that of a
    Conv1D, is ΔW transposed.

    Raises FloatingPointError where a factor holds a NaN or an infinity, or products overflow.
    """
    deltas = [_laid_out(part, transposed=site.transposed) for part in parts.items]
    merged = site.inflation * operator(deltas, site.weights, site)
    if not bool(merged.isfinite().all()):
        raise FloatingPointError("not all values are finite")
    whole = merged.T if site.transposed else merged
    U, S, Vt = torch.linalg.svd(whole, full_matrices=False)
    left, right = (Basis(torch.empty(0), None, None) for _ in range(2))
    return Target(left, right, U.double(), S.double(), Vt.double(), energy=float(S.double().square().sum()))


def _laid_out(part: Part, *, transposed: bool) -> Tensor:
    whole = (part.B.float() @ part.A.float()) * part.scaling
    return whole.T.contiguous() if transposed else whole
