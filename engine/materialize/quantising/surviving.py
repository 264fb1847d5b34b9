"""How much of ΔW is left where packed weights were packed again: too little is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.compat.finding import Finding
from engine.errors import RefusedError
from engine.materialize.stored.place import PLAIN
from engine.materialize.tasks.sums import NOTHING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.materialize.request import Request
    from engine.materialize.tasks.execute import Written
    from engine.materialize.tasks.task import Task

LEAST = 0.9
"""The share of ΔW that has to survive, of every weight: ⟨realised, intended⟩ / ⟨intended, intended⟩."""


def hold_surviving(request: Request, tasks: Sequence[Task], written: Sequence[Written]) -> None:
    """Raises RefusedError with every weight of which less is left, unless the request takes the loss.

    Numbers of a packed base stand on a grid, and a step smaller than half of the grid's is none. Numbers that are
    packed for the first time lie anywhere between, so that steps survive on average.
    """
    again = {task.name for task in tasks if task.changes and PLAIN not in (task.source.encoding, task.target.encoding)}
    measured = [one for one in written if one.name in again]
    lost = sorted((one for one in measured if one.sums.kept_share < LEAST), key=lambda one: one.name)
    if not lost or request.lossy:
        return
    overall = sum((one.sums for one in measured), NOTHING).kept_share
    message = (
        f"{overall:.1%} of the update survives where the base's packed weights are packed again, expected {LEAST:.0%}"
        f" of every weight; {len(lost)} of {len(measured)} have less: give the full-precision checkpoint as base, or"
        " leave --quantize out, or take the loss with --lossy"
    )
    raise RefusedError([Finding("update-lost", "error", message, "base"), *map(_finding, lost)])


def _finding(one: Written) -> Finding:
    message = f"{one.name}: {one.sums.kept_share:.1%} of the update survives"
    return Finding("update-lost", "error", message, "base", where=one.name)
