"""What one module, and all of them together, kept of the parents: sums first, ratios last."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from engine.merge.dtypes import LONG_NAMES
from engine.merge.measuring.needs import needs
from engine.merge.measuring.report import Dominance, Measures, MergeReport, ModuleReport, PairReport, ParentReport

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from engine.merge.matrices.pairs import Pairs, PairSums
    from engine.merge.matrices.parts import Parts
    from engine.merge.matrices.target import Target
    from engine.merge.plan import MergePlan


@dataclass(frozen=True, slots=True)
class Sums:
    """Squared norms, inner products and counts, which add up over modules and over the groups of a convolution.

    `target` ‖D‖², `kept` ‖D_k‖² before rounding, `lost` ‖D - D_k‖² before it, `rounding` what the cast cost; of the
    factors' `nonzero` elements the cast made `zeroed` zero. Per parent `inner` <D_k, D_i>, `own` ‖D_i‖², whether it is
    `present`, and `weighted` ‖w_i·D_i‖², which only `spread` knows; `pairs` by two places among the parents.
    `departure` is ‖D - Σ w_i·D_i‖² and ‖Σ w_i·D_i‖² where the method works on factors.
    `bound` is the target's, of several the largest.
    `unmoved` counts the elements of the base's weight that D_k leaves as they are, and all of them.
    """

    target: float
    kept: float
    lost: float
    rounding: float
    nonzero: int
    zeroed: int
    inner: tuple[float, ...]
    own: tuple[float, ...]
    present: tuple[bool, ...]
    pairs: Pairs
    weighted: tuple[float, ...] = ()
    departure: tuple[float, float] | None = None
    bound: float | None = None
    unmoved: tuple[float, float] = (0.0, 0.0)

    @property
    def error(self) -> float:
        """‖D - D_k‖² after rounding."""
        return self.lost + self.rounding


def measure(parts: Parts, target: Target, exact: tuple[Tensor, Tensor], rounded: tuple[Tensor, Tensor]) -> Sums:
    """The sums of one module or group whose target became the factors `exact` B (m, k) and A (k, n), float64, and then
    `rounded`.
    """
    B, A = exact
    kept, lost = _kept(target, B.shape[1])
    left = torch.split(B.T @ parts.stacked_b, parts.ranks, 1)  # each (k, r)
    right = torch.split(parts.stacked_a @ A.T, parts.ranks, 0)  # each (r, k)
    inner = tuple(
        part.scaling * float((one.T * other).sum()) for part, one, other in zip(parts.items, left, right, strict=True)
    )
    nonzero = sum(int(torch.count_nonzero(factor)) for factor in exact)
    return Sums(
        target=target.energy,
        kept=kept,
        lost=lost,
        rounding=rounding_error(B, A, *rounded),
        nonzero=nonzero,
        zeroed=nonzero - sum(int(torch.count_nonzero(factor)) for factor in rounded),
        inner=inner,
        own=tuple(float(core.square().sum()) for core in parts.joint.cores),
        present=(True,) * len(parts.items),
        pairs=parts.pairs,
        departure=target.departure,
        bound=target.bound,
    )


def _kept(target: Target, rank: int) -> tuple[float, float]:
    """‖D_k‖² and ‖D - D_k‖² before rounding."""
    if target.given is not None:
        return target.energy, 0.0
    kept = float(target.S[:rank].square().sum())
    if target.bound is not None:
        return kept, max(target.energy - kept, 0.0)
    return kept, float(target.S[rank:].square().sum())


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
    pairs: dict[tuple[int, int], PairSums] = {}
    for one in sums:
        for key, pair in one.pairs.items():
            pairs[key] = pairs[key] + pair if key in pairs else pair
    return Sums(
        target=math.fsum(one.target for one in sums),
        kept=math.fsum(one.kept for one in sums),
        lost=math.fsum(one.lost for one in sums),
        rounding=math.fsum(one.rounding for one in sums),
        nonzero=sum(one.nonzero for one in sums),
        zeroed=sum(one.zeroed for one in sums),
        inner=tuple(map(math.fsum, zip(*(one.inner for one in sums), strict=True))),
        own=tuple(map(math.fsum, zip(*(one.own for one in sums), strict=True))),
        present=tuple(map(any, zip(*(one.present for one in sums), strict=True))),
        pairs=dict(sorted(pairs.items())),
        weighted=tuple(map(math.fsum, zip(*(one.weighted for one in sums), strict=True))),
        unmoved=(math.fsum(one.unmoved[0] for one in sums), math.fsum(one.unmoved[1] for one in sums)),
        departure=_departures([one.departure for one in sums]),
        bound=max((one.bound for one in sums if one.bound is not None), default=None),
    )


def _departures(found: Sequence[tuple[float, float] | None]) -> tuple[float, float] | None:
    known = [one for one in found if one is not None]
    return (math.fsum(one[0] for one in known), math.fsum(one[1] for one in known)) if known else None


def spread(sums: Sums, places: Sequence[int], weights: Sequence[float]) -> Sums:
    """The sums of a module that only the parents at `places` have, with zeros for the others; a weight for each."""
    inner, own, present = [0.0] * len(weights), [0.0] * len(weights), [False] * len(weights)
    for place, one, other in zip(places, sums.inner, sums.own, strict=True):
        inner[place], own[place], present[place] = one, other, True
    return replace(
        sums,
        inner=tuple(inner),
        own=tuple(own),
        present=tuple(present),
        pairs={(places[i], places[j]): pair for (i, j), pair in sums.pairs.items()},
        weighted=tuple(weight**2 * norm for weight, norm in zip(weights, own, strict=True)),
    )


def module_report(
    name: str, rank: int, spectrum: Sequence[float] | None, sums: Sums, weights: Sequence[float]
) -> ModuleReport:
    """One module's ratios."""
    return ModuleReport(
        name=name,
        rank=rank,
        spectrum=None if spectrum is None else tuple(spectrum),
        **_measures(sums, weights).by_name(),
    )


def merge_report(
    planned: MergePlan, measured: Sequence[tuple[ModuleReport, Sums]], weights: Sequence[float]
) -> MergeReport:
    """The whole merge: all modules as one vector; `weights` are the parents' own, whatever rules say."""
    total = add([sums for _, sums in measured])
    modules = tuple(report for report, _ in measured)
    return MergeReport(
        method=planned.method,
        options=planned.options.given(),
        rank=planned.rank,
        dtype=LONG_NAMES[planned.dtype],
        modules=len(measured),
        **_measures(total, weights).by_name(),
        ranks_for=needs(planned, modules),
        per_module=modules,
    )


def _measures(sums: Sums, weights: Sequence[float]) -> Measures:
    parents = _parents(sums, weights)
    return Measures(
        norm=math.sqrt(sums.kept),
        target_norm=math.sqrt(sums.target),
        energy_kept=sums.kept / sums.target if sums.target else 1.0,
        relative_error=_relative(sums.error, sums.target),
        truncation_error=_relative(sums.lost, sums.target),
        bound=sums.bound,
        rounding_error=_relative(sums.rounding, sums.kept),
        swallowed=sums.zeroed / sums.nonzero if sums.nonzero else 0.0,
        swallowed_by_base=_share(*sums.unmoved),
        norm_inflation=_norm_inflation(sums),
        dominance=_dominance(parents),
        parents=parents,
        pairs=tuple(_pair(key, pair, sums.own) for key, pair in sums.pairs.items()),
        cross_terms=_cross_terms(sums),
    )


def _relative(error: float, whole: float) -> float:
    return math.sqrt(error / whole) if whole else 0.0


def _norm_inflation(sums: Sums) -> float | None:
    norms = [math.sqrt(own) for own, present in zip(sums.own, sums.present, strict=True) if present]
    mean = math.fsum(norms) / len(norms)
    return math.sqrt(sums.kept) / mean if mean else None


def _dominance(parents: Sequence[ParentReport]) -> Dominance | None:
    """The first of the largest, where several are equal."""
    shares = [parent.share for parent in parents if parent.share is not None]
    return Dominance(shares.index(max(shares)), max(shares)) if len(shares) == len(parents) else None


def _pair(places: tuple[int, int], sums: PairSums, own: Sequence[float]) -> PairReport:
    product = math.sqrt(own[places[0]]) * math.sqrt(own[places[1]])
    return PairReport(
        parents=places,
        columns_overlap=_share(sums.columns, sums.columns_most),
        rows_overlap=_share(sums.rows, sums.rows_most),
        cosine=max(-1.0, min(1.0, sums.inner / product)) if product else None,
        sign_conflict=_share(sums.opposed, sums.both),
        elements=sums.elements,
    )


def _share(part: float, whole: float) -> float | None:
    """In [0, 1]; only rounding leaves it."""
    return min(1.0, part / whole) if whole else None


def _cross_terms(sums: Sums) -> float | None:
    if sums.departure is None or not sums.departure[1]:
        return None
    return math.sqrt(sums.departure[0] / sums.departure[1])


def _parents(sums: Sums, weights: Sequence[float]) -> tuple[ParentReport, ...]:
    norms = [math.sqrt(own) for own in sums.own]
    parts = [math.sqrt(one) for one in sums.weighted]
    total = math.fsum(parts)
    length = math.sqrt(sums.kept)
    return tuple(
        ParentReport(
            weight=weight,
            norm=norm,
            cosine=max(-1.0, min(1.0, inner / (length * norm))) if length and norm else None,
            retention=inner / norm**2 if norm else None,
            share=part / total if total else None,
        )
        for weight, norm, part, inner in zip(weights, norms, parts, sums.inner, strict=True)
    )
