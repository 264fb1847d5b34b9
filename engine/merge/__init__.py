"""Merging LoRA adapters exactly, in their factors. Needs torch; README.md says what is promised and what refused."""

try:
    import torch as _torch
except ModuleNotFoundError as _error:
    from engine.errors import MissingExtraError

    raise MissingExtraError("merge", "torch", "engine") from _error

from engine.merge.methods import METHODS, Method, svd
from engine.merge.plan import MergePlan, plan
from engine.merge.report import MergeReport, ModuleReport, ParentReport
from engine.merge.run import apply, merge
from engine.merge.source import Source
from engine.merge.subspace import Part

__all__ = [
    "METHODS",
    "MergePlan",
    "MergeReport",
    "Method",
    "ModuleReport",
    "ParentReport",
    "Part",
    "Source",
    "apply",
    "merge",
    "plan",
    "svd",
]

del _torch
