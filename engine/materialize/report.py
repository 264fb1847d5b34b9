"""What a materialisation did, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.format.adapter import WEIGHTS_NAME
from engine.materialize.stored.packed import FOUR_BITS
from engine.materialize.stored.place import PLAIN
from engine.materialize.tasks.sums import NOTHING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from engine.materialize.plan import Plan
    from engine.materialize.tasks.execute import Written
    from engine.materialize.tasks.sums import Sums
    from engine.materialize.tasks.task import Task

SWALLOWED = 0.2
"""The share of elements that may stay unmoved before a warning."""


@dataclass(frozen=True, slots=True)
class Materialized:
    """A finished folder: per stored tensor its file, dtype, shape and sha256; the report as JSON."""

    path: Path
    tensors: Mapping[str, Mapping[str, Any]]
    report: Mapping[str, Any]


def told(planned: Plan, done: Sequence[Written]) -> dict[str, Any]:
    """Per module, worst first, and overall: cosine and relative error of realised against intended ΔW, and the share
    swallowed. Of the other tensors how many (and bytes) were copied from the base, cast, or taken from an adapter; the
    class that the model has become where that is another than the base's.
    """
    tasks = {task.name: task for task in planned.tasks}
    # In one order, whichever thread was first: sums of floats depend on it.
    changed = sorted((one for one in done if tasks[one.name].changes), key=lambda one: one.name)
    overall = sum((one.sums for one in changed), NOTHING)
    per_module = [{"name": one.module, "tensor": one.name, **_numbers(one.sums)} for one in changed]
    return {
        "modules": len(changed),
        **_others(planned),
        **({} if planned.headed is None else {"headed": planned.headed.as_json()}),
        **_numbers(overall),
        "warnings": [*_coarse(planned, changed), *_lost(planned, changed), *_misread(planned)],
        "per_module": sorted(per_module, key=lambda one: (-one["relative_error"], one["tensor"])),
    }


def _others(planned: Plan) -> dict[str, int]:
    adapters = {source.path / WEIGHTS_NAME for source in planned.request.sources}
    rest = [task for task in planned.tasks if not task.changes]
    copied = [task for task in rest if task.copies and not _of(adapters, task)]
    replaced = sum(_of(adapters, task) for task in rest)
    return {
        "copied": len(copied),
        "copied_bytes": sum(task.target.size for task in copied),
        "cast": len(rest) - len(copied) - replaced,
        "replaced": replaced,
    }


def _of(adapters: set[Path], task: Task) -> bool:
    return any(part.file in adapters for part in task.source.parts.values())


def _numbers(sums: Sums) -> dict[str, float]:
    return {
        "cosine": sums.cosine,
        "relative_error": sums.relative_error,
        "swallowed": sums.swallowed_share,
        "kept": sums.kept_share,
        "norm": sums.intended**0.5,
    }


def _coarse(planned: Plan, changed: Sequence[Written]) -> list[str]:
    """None for stochastic rounding, which leaves elements unmoved on purpose and is right on average."""
    changed = _stored_as(planned, changed, packed=False)
    worst = [one for one in changed if one.sums.swallowed_share > SWALLOWED]
    if not worst or planned.request.rounding == "stochastic":
        return []
    overall = sum((one.sums for one in changed), NOTHING)
    worst.sort(key=lambda one: (-one.sums.swallowed_share, one.name))
    first = f"{worst[0].name} {worst[0].sums.swallowed_share:.0%}"
    text = (
        f"{overall.swallowed_share:.0%} of the elements that should change are stored as they were; over"
        f" {SWALLOWED:.0%} of {len(worst)} of {len(changed)} weights ({first}): the dtype is too coarse for the update."
        f" Take dtype float32, or rounding stochastic, or leave the adapter unmerged"
    )
    return [text]


def _lost(planned: Plan, changed: Sequence[Written]) -> list[str]:
    """Packed weights keep most of their codes under any update: those that change make up for the others on average,
    as `kept` tells.
    """
    changed = _stored_as(planned, changed, packed=True)
    worst = sorted((one for one in changed if one.sums.kept_share < 1 - SWALLOWED), key=lambda one: one.sums.kept_share)
    if not worst:
        return []
    overall = sum((one.sums for one in changed), NOTHING)
    text = (
        f"{overall.kept_share:.0%} of the update survives packing; over {SWALLOWED:.0%} is lost of {len(worst)} of"
        f" {len(changed)} weights ({worst[0].name} keeps {worst[0].sums.kept_share:.0%}). Take the full-precision"
        f" checkpoint as base, or leave quantize out, or leave the adapter unmerged"
    )
    return [text]


def _misread(planned: Plan) -> list[str]:
    """What bitsandbytes 0.50.2 on a processor reads with the scales of other blocks, or refuses to run."""
    targets = {task.name: task.target for task in planned.tasks if task.target.encoding in FOUR_BITS}
    crossing = [name for name, target in targets.items() if target.multiple > 1]
    if not crossing:
        return []
    columns, blocksize = targets[crossing[0]].matrix[1], targets[crossing[0]].blocksize
    text = (
        f"{len(crossing)} of {len(targets)} 4-bit weights have rows that are no whole number of blocks ({crossing[0]}:"
        f" {columns} numbers, blocks of {blocksize}). What is stored is right, but bitsandbytes computes with other"
        f" numbers on a processor, or refuses. Run them on a GPU, or take quantize int8, or none"
    )
    return [text]


def _stored_as(planned: Plan, changed: Sequence[Written], *, packed: bool) -> list[Written]:
    names = {task.name for task in planned.tasks if (task.target.encoding != PLAIN) == packed}
    return [one for one in changed if one.name in names]
