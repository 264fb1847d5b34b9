"""What one module, and all of them together, kept of the parents: sums first, ratios last."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from engine.merge.dtypes import LONG_NAMES
from engine.merge.report import MergeReport, ModuleReport, ParentReport

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from engine.merge.parts import Parts
    from engine.merge.plan import MergePlan
    from engine.merge.target import Target


@dataclass(frozen=True, slots=True)
class Sums:
    """Squared norms and inner products, which add up over modules and over the groups of a convolution.

    `target` ‖D‖², `kept` ‖D_k‖² before rounding, `error` ‖D - D_k‖² after it; per parent `inner` <D_k, D_i>, `own`
    ‖D_i‖², and `weighted` ‖w_i·D_i‖², which only `spread` knows.
    """

    target: float
    kept: float
    error: float
    inner: tuple[float, ...]
    own: tuple[float, ...]
    weighted: tuple[float, ...] = ()


def measure(parts: Parts, target: Target, B: Tensor, A: Tensor, rounding: float) -> Sums:
    """The sums of one module or group whose target became B (m, k) and A (k, n), float64; `rounding` is what the cast
    cost, squared.
    """
    if target.given is None:
        kept = float(target.S[: B.shape[1]].square().sum())
        lost = (
            max(target.energy - kept, 0.0) if target.bound is not None else float(target.S[B.shape[1] :].square().sum())
        )
    else:
        kept, lost = target.energy, 0.0
    left = torch.split(B.T @ parts.stacked_b, parts.ranks, 1)  # each (k, r)
    right = torch.split(parts.stacked_a @ A.T, parts.ranks, 0)  # each (r, k)
    inner = tuple(
        part.scaling * float((one.T * other).sum()) for part, one, other in zip(parts.items, left, right, strict=True)
    )
    own = tuple(float(core.square().sum()) for core in parts.joint.cores)
    return Sums(target=target.energy, kept=kept, error=lost + rounding, inner=inner, own=own)


def rounding_error(B: Tensor, A: Tensor, rounded_b: Tensor, rounded_a: Tensor) -> float:
    """‖B·A - B'·A'‖² for rounded factors B' and A'; not finite where they are not.

    No difference of large numbers: B·A - B'·A' = (B - B')·A + B'·(A - A').
    """
    b, a = rounded_b.double(), rounded_a.double()
    lost_b, lost_a = B - b, A - a
    first = ((lost_b.T @ lost_b) * (A @ A.T)).sum()
    second = ((b.T @ b) * (lost_a @ lost_a.T)).sum()
    cross = ((lost_b.T @ b) * (A @ lost_a.T)).sum()
    total = float(first + second + 2 * cross)
    # A sum of squares; only rounding takes it below zero. A NaN stays one.
    return 0.0 if total < 0 else total


def add(sums: Sequence[Sums]) -> Sums:
    """The sums over several modules with the same parents, or over groups."""
    return Sums(
        target=math.fsum(one.target for one in sums),
        kept=math.fsum(one.kept for one in sums),
        error=math.fsum(one.error for one in sums),
        inner=tuple(map(math.fsum, zip(*(one.inner for one in sums), strict=True))),
        own=tuple(map(math.fsum, zip(*(one.own for one in sums), strict=True))),
        weighted=tuple(map(math.fsum, zip(*(one.weighted for one in sums), strict=True))),
    )


def spread(sums: Sums, places: Sequence[int], weights: Sequence[float]) -> Sums:
    """The sums of a module that only the parents at `places` have, with zeros for the others; a weight for each."""
    inner, own = [0.0] * len(weights), [0.0] * len(weights)
    for place, one, other in zip(places, sums.inner, sums.own, strict=True):
        inner[place], own[place] = one, other
    weighted = tuple(weight**2 * norm for weight, norm in zip(weights, own, strict=True))
    return replace(sums, inner=tuple(inner), own=tuple(own), weighted=weighted)


def module_report(
    name: str, rank: int, spectrum: Sequence[float] | None, sums: Sums, weights: Sequence[float]
) -> ModuleReport:
    """One module's ratios."""
    return ModuleReport(
        name=name,
        rank=rank,
        norm=math.sqrt(sums.kept),
        energy_kept=_energy_kept(sums),
        relative_error=_relative_error(sums),
        spectrum=None if spectrum is None else tuple(spectrum),
        parents=_parents(sums, weights),
    )


def merge_report(
    planned: MergePlan, measured: Sequence[tuple[ModuleReport, Sums]], weights: Sequence[float]
) -> MergeReport:
    """The whole merge: all modules as one vector; `weights` are the parents' own, whatever rules say."""
    total = add([sums for _, sums in measured])
    return MergeReport(
        method=planned.method,
        options=planned.options.given(),
        rank=planned.rank,
        dtype=LONG_NAMES[planned.dtype],
        modules=len(measured),
        norm=math.sqrt(total.kept),
        energy_kept=_energy_kept(total),
        relative_error=_relative_error(total),
        parents=_parents(total, weights),
        per_module=tuple(report for report, _ in measured),
    )


def _energy_kept(sums: Sums) -> float:
    return sums.kept / sums.target if sums.target else 1.0


def _relative_error(sums: Sums) -> float:
    return math.sqrt(sums.error / sums.target) if sums.target else 0.0


def _parents(sums: Sums, weights: Sequence[float]) -> tuple[ParentReport, ...]:
    norms = [math.sqrt(own) for own in sums.own]
    parts = [math.sqrt(one) for one in sums.weighted]
    total = math.fsum(parts)
    length = math.sqrt(sums.kept)
    return tuple(
        ParentReport(
            weight=weight,
            norm=norm,
            cosine=inner / (length * norm) if length and norm else None,
            retention=inner / norm**2 if norm else None,
            share=part / total if total else None,
        )
        for weight, norm, part, inner in zip(weights, norms, parts, sums.inner, strict=True)
    )
