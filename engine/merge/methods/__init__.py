"""Merge methods: a table of pure functions from the parents of one module to the merged ΔW."""

from engine.merge.methods.model_stock import equal_weights, model_stock
from engine.merge.methods.slerp import slerp, slerp_weights
from engine.merge.methods.stacked import stacked
from engine.merge.methods.svd import svd
from engine.merge.methods.table import Method, Site

METHODS = {
    "cat": Method(stacked, stacks=True, summary="exact: the parents' factors stacked, rank the sum of theirs"),
    "linear": Method(stacked, stacks=True, summary="exact: the weighted sum of the ΔW, in stacked factors as cat"),
    "svd": Method(svd, summary="the best rank-N approximation of the weighted sum of the ΔW"),
    "resize": Method(svd, most=1, summary="one adapter at another rank, energy or size"),
    "slerp": Method(
        slerp,
        fewest=2,
        most=2,
        check=slerp_weights,
        defaults={"scale": 1.0},
        summary="two adapters joined along the arc between their ΔW",
    ),
    "model_stock": Method(
        model_stock,
        fewest=2,
        check=equal_weights,
        summary="the mean of the ΔW, shortened by how far they disagree",
    ),
}
"""Every method by name. A new one is a file here, a row here and a page in docs/methods."""

__all__ = ["METHODS", "Method", "Site"]
