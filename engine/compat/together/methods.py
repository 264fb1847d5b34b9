"""What a merge method asks of its parents, without its arithmetic: engine.merge's own table says the same (a test)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Demands:
    """How many parents the method takes, whether it sums their ΔW (`linear`) and takes dense ones (`full_rank`)."""

    fewest: int = 1
    most: int | None = None
    linear: bool = False
    full_rank: bool = False


METHODS = {
    "cat": Demands(linear=True),
    "linear": Demands(linear=True),
    "svd": Demands(linear=True, full_rank=True),
    "resize": Demands(linear=True, full_rank=True, most=1),
    "slerp": Demands(fewest=2, most=2),
    "model_stock": Demands(fewest=2),
    "tsv_m": Demands(),
    "knots_ties": Demands(),
    "core_ties": Demands(),
    "ties": Demands(full_rank=True),
    "dare_linear": Demands(full_rank=True),
    "dare_ties": Demands(full_rank=True),
    "magnitude_prune": Demands(full_rank=True),
}
"""By name; `--together merge` without a method asks what svd does, the one that takes most."""

ALIASES = {f"{name}_svd": name for name in ("ties", "dare_linear", "dare_ties", "magnitude_prune")}
