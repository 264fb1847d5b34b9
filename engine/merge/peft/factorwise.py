"""PEFT's types that work on A and on B apart: `linear`, `ties`, `dare_linear`, `dare_ties`, `magnitude_prune`."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from engine.merge.matrices.subspace import FLOAT64_EPSILON, span
from engine.merge.matrices.target import from_core

if TYPE_CHECKING:
    from torch import Tensor

    from engine.merge.matrices.parts import Parts
    from engine.merge.matrices.target import Target
    from engine.merge.peft.operators import Operator
    from engine.merge.table import Site


def factorwise(parts: Parts, site: Site, *, operator: Operator) -> Target:
    """A = f({A_i}, ±√|w_i·s_i|) and B = f({B_i}, √|w_i·s_i|), A's random numbers drawn before B's.

    B·A holds cross terms of every B_i with every A_j, and for one parent and `linear` is w·s·B_1·A_1.
    """
    strengths = [weight * part.scaling for weight, part in zip(site.weights, parts.items, strict=True)]
    roots = [math.sqrt(abs(strength)) for strength in strengths]
    signed = [math.copysign(root, strength) for root, strength in zip(roots, strengths, strict=True)]
    A = operator([part.A.float() for part in parts.items], signed, site).double()
    B = operator([part.B.float() for part in parts.items], roots, site).double()
    return _made(parts, site, B, site.inflation * A)


def stacked(parts: Parts, site: Site) -> Target:
    """`cat`: the B_i side by side, the w_i·s_i·A_i one above the other."""
    strengths = [weight * part.scaling for weight, part in zip(site.weights, parts.items, strict=True)]
    column = torch.tensor(strengths, dtype=torch.float64).repeat_interleave(torch.tensor(parts.ranks))
    A = site.inflation * column.to(parts.stacked_a.device)[:, None] * parts.stacked_a
    return _made(parts, site, parts.stacked_b, A)


def _made(parts: Parts, site: Site, B: Tensor, A: Tensor) -> Target:
    left, right = span(B, precise=True), span(A.T, precise=True)
    core = left.triangle @ right.triangle.T
    target = from_core(left, core, right, noise=FLOAT64_EPSILON * max(parts.shape) * float(core.norm()))
    return replace(target, given=(B, A), departure=_departure(parts, site, B, A))


def _departure(parts: Parts, site: Site, B: Tensor, A: Tensor) -> tuple[float, float]:
    """‖B·A - Σ w_i·D_i‖² and ‖Σ w_i·D_i‖², from the triangles of stacked factors: no difference of large numbers."""
    strengths = [-weight * part.scaling for weight, part in zip(site.weights, parts.items, strict=True)]
    scales = torch.tensor(strengths, dtype=torch.float64).repeat_interleave(torch.tensor(parts.ranks)).to(B.device)
    left = span(torch.cat([B, parts.stacked_b * scales], 1), precise=True).triangle
    right = span(torch.cat([A.T, parts.stacked_a.T], 1), precise=True).triangle
    rank = B.shape[1]
    exact = left[:, rank:] @ right[:, rank:].T
    return float((left @ right.T).square().sum()), float(exact.square().sum())
