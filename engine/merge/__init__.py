"""Merging LoRA adapters exactly, in their factors. Needs torch; README.md says what is promised and what refused."""

try:
    import torch as _torch
except ModuleNotFoundError as _error:
    from engine.errors import MissingExtraError

    raise MissingExtraError("merge", "torch", "engine") from _error

from engine.merge.given.options import Options
from engine.merge.given.ranks import RankRule
from engine.merge.given.source import Source
from engine.merge.given.weights import Weight, WeightRule
from engine.merge.matrices.parts import Part, Parts
from engine.merge.matrices.target import Target
from engine.merge.measuring.report import Dominance, MergeReport, ModuleReport, PairReport, ParentReport, RankNeed
from engine.merge.methods import METHODS, Method, Site
from engine.merge.plan import MergePlan
from engine.merge.planning import plan
from engine.merge.run import apply, apply_grid, merge

__all__ = [
    "METHODS",
    "Dominance",
    "MergePlan",
    "MergeReport",
    "Method",
    "ModuleReport",
    "Options",
    "PairReport",
    "ParentReport",
    "Part",
    "Parts",
    "RankNeed",
    "RankRule",
    "Site",
    "Source",
    "Target",
    "Weight",
    "WeightRule",
    "apply",
    "apply_grid",
    "merge",
    "plan",
]

del _torch
