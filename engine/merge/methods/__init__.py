"""Merge methods: a table of pure functions from the parents of one module to the merged ΔW."""

from engine.merge.methods.stacked import stacked
from engine.merge.methods.svd import svd
from engine.merge.methods.table import Method, Site

METHODS = {
    "cat": Method(stacked, stacks=True, summary="exact: the parents' factors stacked, rank the sum of theirs"),
    "linear": Method(stacked, stacks=True, summary="exact: the weighted sum of the ΔW, in stacked factors as cat"),
    "svd": Method(svd, summary="the best rank-N approximation of the weighted sum of the ΔW"),
}
"""Every method by name. A new one is a file here, a row here and a page in docs/methods."""

__all__ = ["METHODS", "Method", "Site"]
