"""Which rank a merge would need to keep which share of its target, from the spectra it measured."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING

from engine.format.files.writer import header_size
from engine.format.numbers.spectra import rank_for
from engine.merge.dtypes import SIZES
from engine.merge.measuring.report import RankNeed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.merge.measuring.report import ModuleReport
    from engine.merge.plan import MergePlan

SHARES = (0.9, 0.95, 0.99, 0.999)


def needs(planned: MergePlan, modules: Sequence[ModuleReport]) -> tuple[RankNeed, ...]:
    """A row for each of `SHARES`; `modules` in the plan's order."""
    per_rank = [
        (math.prod(module.a_shape) + math.prod(module.b_shape)) // module.declared_rank * SIZES[planned.dtype]
        for module in planned.modules
    ]
    fixed = header_size(planned.tensors) + sum(one.size for one in planned.others)
    return tuple(_need(share, modules, per_rank, fixed) for share in SHARES)


def _need(share: float, modules: Sequence[ModuleReport], per_rank: Sequence[int], fixed: int) -> RankNeed:
    known, size, more = [], fixed, 0
    for module, cost in zip(modules, per_rank, strict=True):
        rank = module.rank
        if module.spectrum is not None:
            found = rank_for([value**2 for value in module.spectrum], module.target_norm**2, share)
            more += found is None
            rank = max(1, len(module.spectrum) if found is None else found)
            known.append(rank)
        size += cost * rank
    return RankNeed(
        share=share,
        largest=max(known, default=None),
        median=statistics.median(known) if known else None,
        size=size,
        more_than=more,
        unknown=len(modules) - len(known),
    )
