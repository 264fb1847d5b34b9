"""What a materialisation did, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.materialize.sums import NOTHING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from engine.materialize.execute import Written
    from engine.materialize.sums import Sums

SWALLOWED = 0.2
"""The share of elements that may stay unmoved before a warning."""


@dataclass(frozen=True, slots=True)
class Materialized:
    """A finished folder: per stored tensor its file, dtype, shape and sha256; the report as JSON."""

    path: Path
    tensors: Mapping[str, Mapping[str, Any]]
    report: Mapping[str, Any]


def told(written: Sequence[Written]) -> dict[str, Any]:
    """Per module and overall: cosine and relative error of realised against intended ΔW, and the share swallowed."""
    changed = sorted((one for one in written if one.sums.elements), key=lambda one: one.name)
    overall = sum((one.sums for one in changed), NOTHING)
    return {
        "modules": len(changed),
        "copied": sum(1 for one in written if not one.sums.elements),
        **_numbers(overall),
        "warnings": _warnings(overall),
        "per_module": [{"name": one.module, "tensor": one.name, **_numbers(one.sums)} for one in changed],
    }


def _numbers(sums: Sums) -> dict[str, float]:
    return {
        "cosine": sums.cosine,
        "relative_error": sums.relative_error,
        "swallowed": sums.swallowed_share,
        "kept": sums.kept_share,
        "norm": sums.intended**0.5,
    }


def _warnings(overall: Sums) -> list[str]:
    if overall.swallowed_share <= SWALLOWED:
        return []
    lost = f"{overall.swallowed_share:.0%} of the elements that should change are stored unchanged"
    return [f"{lost}: the dtype is too coarse; take fp32 or stochastic rounding, or leave the adapter unmerged"]
