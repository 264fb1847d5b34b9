"""peft 0.21.2's add_weighted_adapter as rows of the table of methods, quirks included.

docs/methods/semantics-peft.md names every quirk and what is refused.
"""

from collections.abc import Mapping
from functools import partial

from engine.merge.peft import operators
from engine.merge.peft.dense import dense, svd
from engine.merge.peft.factorwise import factorwise, stacked
from engine.merge.table import Method

_DENSITY: Mapping[str, object] = {"density": None}
_ELECTED: Mapping[str, object] = {**_DENSITY, "majority_sign": "total"}
_SEED = {"seed": 0}

ROWS = {
    "cat": Method(stacked, stacks=True, summary="PEFT: factors stacked, in float32"),
    "linear": Method(
        partial(factorwise, operator=operators.linear),
        same_rank=True,
        summary="PEFT: A and B summed apart, with cross terms",
    ),
    "svd": Method(svd, summary="PEFT: the weighted sum of the ΔW, cut"),
    "ties": Method(
        partial(factorwise, operator=operators.ties), same_rank=True, defaults=_ELECTED, summary="PEFT: TIES on A and B"
    ),
    "ties_svd": Method(
        partial(dense, operator=operators.ties), dense=True, defaults=_ELECTED, summary="PEFT: TIES on the ΔW, cut"
    ),
    "dare_linear": Method(
        partial(factorwise, operator=operators.dare_linear),
        same_rank=True,
        ordered=True,
        defaults={**_DENSITY, **_SEED},
        summary="PEFT: DARE on A and B, summed",
    ),
    "dare_linear_svd": Method(
        partial(dense, operator=operators.dare_linear),
        dense=True,
        ordered=True,
        defaults={**_DENSITY, **_SEED},
        summary="PEFT: DARE on the ΔW, summed and cut",
    ),
    "dare_ties": Method(
        partial(factorwise, operator=operators.dare_ties),
        same_rank=True,
        ordered=True,
        defaults={**_ELECTED, **_SEED},
        summary="PEFT: DARE, then TIES, on A and B",
    ),
    "dare_ties_svd": Method(
        partial(dense, operator=operators.dare_ties),
        dense=True,
        ordered=True,
        defaults={**_ELECTED, **_SEED},
        summary="PEFT: DARE, then TIES, on the ΔW, cut",
    ),
    "magnitude_prune": Method(
        partial(factorwise, operator=operators.magnitude_prune),
        same_rank=True,
        defaults=_DENSITY,
        summary="PEFT: A and B trimmed and summed apart",
    ),
    "magnitude_prune_svd": Method(
        partial(dense, operator=operators.magnitude_prune),
        dense=True,
        defaults=_DENSITY,
        summary="PEFT: the ΔW trimmed, summed and cut",
    ),
}
"""PEFT's eleven combination types. A default of None must be given: PEFT has none of its own."""

__all__ = ["ROWS"]
