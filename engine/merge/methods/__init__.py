"""Merge methods: a table of pure functions from the parents of one module to the merged ΔW."""

from collections.abc import Mapping

from engine.errors import OptionError
from engine.merge.dropping.survey import with_digests, with_thresholds
from engine.merge.methods.core_ties import core_ties
from engine.merge.methods.dare_linear import dare_linear
from engine.merge.methods.dare_ties import dare_ties
from engine.merge.methods.knots_ties import knots_ties
from engine.merge.methods.magnitude_prune import magnitude_prune
from engine.merge.methods.model_stock import equal_weights, model_stock
from engine.merge.methods.slerp import slerp, slerp_weights
from engine.merge.methods.stacked import stacked
from engine.merge.methods.svd import svd
from engine.merge.methods.ties import ties
from engine.merge.methods.tsv_m import tsv_m
from engine.merge.peft import ROWS as PEFT
from engine.merge.table import Method, Site

_TRIM = {"density": 0.2, "trim": "global", "rescale": "none", "scale": 1.0, "seed": 0}
_DROP = {"density": 0.5, "rescale": "density", "scale": 1.0, "seed": 0}
_SIGNS = {"elect": "weighted", "majority_sign": "total"}
_SMALL = {"density": 0.2, "rescale": "none", "scale": 1.0, **_SIGNS}

METHODS = {
    "cat": Method(
        stacked, stacks=True, linear=True, summary="exact: the parents' factors stacked, rank the sum of theirs"
    ),
    "linear": Method(
        stacked, stacks=True, linear=True, summary="exact: the weighted sum of the ΔW, in stacked factors as cat"
    ),
    "svd": Method(
        svd, linear=True, full_rank=True, summary="the best rank-N approximation of the weighted sum of the ΔW"
    ),
    "resize": Method(svd, linear=True, full_rank=True, most=1, summary="one adapter at another rank, energy or size"),
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
    "tsv_m": Method(
        tsv_m, defaults={"scale": 1.0}, summary="the parents' singular vectors, made orthogonal to one another"
    ),
    "knots_ties": Method(knots_ties, defaults=_SMALL, summary="TIES on the ΔW in the basis of their joint SVD"),
    "core_ties": Method(core_ties, defaults=_SMALL, summary="TIES on small cores in a common basis of the factors"),
    "ties": Method(
        ties,
        dense=True,
        full_rank=True,
        defaults=_TRIM | _SIGNS,
        survey=with_thresholds,
        summary="the largest elements of each ΔW, averaged where they agree with the elected sign",
    ),
    "dare_linear": Method(
        dare_linear,
        dense=True,
        full_rank=True,
        defaults=_DROP,
        survey=with_digests,
        summary="elements of each ΔW dropped at random, the rest rescaled and summed",
    ),
    "dare_ties": Method(
        dare_ties,
        dense=True,
        full_rank=True,
        defaults=_DROP | _SIGNS,
        survey=with_digests,
        summary="elements of each ΔW dropped at random, the rest averaged where they agree with the elected sign",
    ),
    "magnitude_prune": Method(
        magnitude_prune,
        dense=True,
        full_rank=True,
        defaults=_TRIM,
        survey=with_thresholds,
        summary="the largest elements of each ΔW, summed",
    ),
}
"""Every method by name. A new one is a file here, a row here and a page in docs/methods."""

ALIASES = {f"{name}_svd": name for name in ("ties", "dare_linear", "dare_ties", "magnitude_prune")}
"""PEFT's names of methods that work on the full ΔW, which here the names without _svd do too."""

SEMANTICS: Mapping[str, Mapping[str, Method]] = {"exact": METHODS, "peft": PEFT}
"""The tables by the word that chooses between them."""


def find(method: str, semantics: str = "exact", *, parents: int = 2) -> Method:
    """The row of `method` under `semantics` for so many parents.

    Raises OptionError for names that are in no table.
    """
    if semantics not in SEMANTICS:
        raise OptionError(f"semantics {semantics!r}: expected one of {', '.join(SEMANTICS)}")
    rows = SEMANTICS[semantics]
    if method not in rows:
        under = "" if semantics == "exact" else f" under {semantics} semantics"
        raise OptionError(f"merge method {method!r}{under}: expected one of {', '.join(rows)}")
    # PEFT's own rule: one adapter is always merged by `linear`.
    return rows["linear"] if semantics == "peft" and parents == 1 else rows[method]


__all__ = ["ALIASES", "METHODS", "SEMANTICS", "Method", "Site", "find"]
