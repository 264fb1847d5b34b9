"""Merging LoRA adapters exactly, in their factors. Needs torch; README.md says what is promised and what refused."""

try:
    import torch as _torch
except ModuleNotFoundError as _error:
    from engine.errors import MissingExtraError

    raise MissingExtraError("merge", "torch", "engine") from _error

from engine.merge.methods import METHODS, Method, Site
from engine.merge.options import Options
from engine.merge.parts import Part, Parts
from engine.merge.plan import MergePlan, plan
from engine.merge.ranks import RankRule
from engine.merge.report import Dominance, MergeReport, ModuleReport, PairReport, ParentReport, RankNeed
from engine.merge.run import apply, apply_grid, merge
from engine.merge.source import Source
from engine.merge.target import Target
from engine.merge.weights import Weight, WeightRule

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
