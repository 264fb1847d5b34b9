"""Carries out one task: by row blocks, float32 (float64 for such bases) in between, rounded once, summed on the way."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, cast

import torch

from engine.compat.finding import Finding
from engine.errors import RefusedError
from engine.materialize.changes.experts import stack_of
from engine.materialize.encodings import ENCODINGS
from engine.materialize.stored.blocks import row_blocks
from engine.materialize.stored.copying import copy_range
from engine.materialize.stored.files import opened, reading
from engine.materialize.stored.hashing import place_digest
from engine.materialize.tasks.operands import operands
from engine.materialize.tasks.rounding import nearest, random_of, stochastic
from engine.materialize.tasks.sums import NOTHING, Sums, measured
from engine.model.memory.tensordata import widened

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from engine.materialize.changes.change import Rows
    from engine.materialize.encodings.encoding import PackedReader, Rounded
    from engine.materialize.stored.place import Place
    from engine.materialize.tasks.operands import Operands
    from engine.materialize.tasks.stacks import Stacks
    from engine.materialize.tasks.task import Task


@dataclass(frozen=True, slots=True)
class Written:
    """A finished tensor: the sha256 of each part's bytes (hex, by role), and what its changes came to."""

    name: str
    module: str
    digests: Mapping[str, str]
    sums: Sums


def execute(task: Task, stacks: Stacks = stack_of) -> Written:
    """Write the task's target, whose files exist at their full size; `stacks` gives what it shares with other tasks of
    a run. Safe to repeat.

    Raises RefusedError for a result that is not finite, HeaderError for a source that changed.
    """
    with torch.no_grad():
        return _copied(task) if task.copies else _changed(task, stacks)


def _copied(task: Task) -> Written:
    digests = {role: _copy(part, task.target.parts[role]) for role, part in task.source.parts.items()}
    return Written(task.name, task.module, digests, NOTHING)


def _copy(source: Place, target: Place) -> str:
    with reading(source.file) as descriptor, opened(target.file, os.O_WRONLY) as writing:
        copy_range(descriptor, source.offset, writing, target.offset, source.size, file=source.file)
    return place_digest(source)


def _changed(task: Task, stacks: Stacks) -> Written:
    sums = NOTHING
    into = ENCODINGS[task.target.encoding]
    with ExitStack() as stack:
        source = operands(task, stack.enter_context(ENCODINGS[task.source.encoding].reading(task.source)), stacks)
        writer = stack.enter_context(into.writing(task.target, rounding_of(task)))
        for start, stop in row_blocks(*source.matrix, multiple=task.target.multiple):
            W = source.weight(start, stop)
            D = source.change(start, stop, W) if source.change else None
            total = W if D is None else W + D
            stored = writer.put(start, total)
            if into.packed:
                _hold_finite(task, stored)
            elif D is None:
                _hold_range(task, W, stored)
            else:
                sums += _block(task, W, D, total, stored)
        digests = writer.digests()
        if into.packed and source.change:
            sums = measured_again(task, source, stack.enter_context(into.packed(task.target)))
        return Written(task.name, task.module, digests, sums)


def measured_again(task: Task, source: Operands, found: PackedReader) -> Sums:
    """The sums of a packed weight: what its numbers are shows only when all of its scales are known."""
    sums = NOTHING
    for start, stop in row_blocks(*source.matrix, multiple=task.target.multiple):
        W = source.weight(start, stop)
        D = cast("Rows", source.change)(start, stop, W)
        alike = found.alike(start, W)
        sums += measured(W, D, W + D, found.rows(start, stop), alike=alike)
    return sums


def _block(task: Task, W: Tensor, D: Tensor, total: Tensor, stored: Tensor) -> Sums:
    sums = measured(W, D, total, stored)
    # Looking at every number costs more than all the rest; sums are at hand, and tell where to look.
    if not sums.finite and not torch.isfinite(widened(stored)).all():
        raise RefusedError([_not_finite(task)])
    return sums


def _hold_range(task: Task, W: Tensor, stored: Tensor) -> None:
    """Refuse a cast that makes a finite number infinite."""
    numbers = widened(stored)
    if not isfinite(float(numbers.sum())) and (torch.isfinite(W) & ~torch.isfinite(numbers)).any():
        raise RefusedError([_not_finite(task)])


def _hold_finite(task: Task, numbers: Tensor) -> None:
    """Refuse what no code stands for."""
    if not isfinite(float(widened(numbers).sum())) and not torch.isfinite(numbers).all():
        raise RefusedError([_not_finite(task)])


def rounding_of(task: Task) -> Rounded:
    """How the task's numbers become those that are stored."""
    seed, name = task.seed, task.name
    if seed is None:
        return lambda numbers, _, dtype: nearest(numbers, dtype)
    return lambda numbers, start, dtype: stochastic(numbers, dtype, random_of(seed, name, start))


def _not_finite(task: Task) -> Finding:
    message = f"{task.name}: the result holds NaN, infinite numbers, or more than its dtype does"
    return Finding("merge-nonfinite", "error", message, where=task.name)
