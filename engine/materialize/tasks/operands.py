"""W and Δ of a task by rows of its target, which may hold the weight turned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from engine.materialize.changes.experts import Expert
from engine.materialize.stored.blocks import row_blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from engine.materialize.changes.change import Change, Rows, Weight
    from engine.materialize.encodings.encoding import Reader
    from engine.materialize.tasks.stacks import Stacks
    from engine.materialize.tasks.task import Task


@dataclass(frozen=True, slots=True)
class Operands:
    """`weight` gives W's rows, `change` their Δ (None where nothing changes them), of a target of such a matrix."""

    matrix: tuple[int, int]
    weight: Weight
    change: Rows | None


def operands(task: Task, reader: Reader, stacks: Stacks) -> Operands:
    """What the task's changes make of the numbers that `reader` gives; `stacks` gives what experts share.

    A turned target has all of W and Δ in memory: 8 bytes per number. Only models with transformers' Conv1D have them.
    """
    opened = [_opened(change, task.source.shape, reader.rows, stacks) for change in task.changes]
    straight = Operands(task.source.matrix, reader.rows, _together(opened) if opened else None)
    return _turned(straight) if task.turned else straight


def _opened(change: Change, shape: tuple[int, ...], weight: Weight, stacks: Stacks) -> Rows:
    if isinstance(change, Expert):
        return change.taken(stacks(change.B, change.experts))
    return change.opened(shape, weight)


def _together(changes: Sequence[Rows]) -> Rows:
    """The sum of all changes of some rows, each on top of those before it."""

    def rows(start: int, stop: int, W: Tensor) -> Tensor:
        D = changes[0](start, stop, W)
        for change in changes[1:]:
            D += change(start, stop, W + D)
        return D

    return rows


def _turned(straight: Operands) -> Operands:
    rows, columns = straight.matrix
    W = torch.empty(columns, rows)
    D = torch.empty(columns, rows) if straight.change else None
    for start, stop in row_blocks(rows, columns):
        block = straight.weight(start, stop)
        W[:, start:stop] = block.T
        if D is not None and straight.change is not None:
            D[:, start:stop] = straight.change(start, stop, block).T
    return Operands((columns, rows), _slices(W), None if D is None else _parts(D))


def _slices(whole: Tensor) -> Callable[[int, int], Tensor]:
    return lambda start, stop: whole[start:stop].clone()


def _parts(whole: Tensor) -> Rows:
    return lambda start, stop, _: whole[start:stop]
