"""Carries out tasks on several threads of this process."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING

import torch

from engine.materialize.tasks.execute import execute
from engine.materialize.tasks.stacks import Shared, side_by_side

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from engine.materialize.tasks.execute import Written
    from engine.materialize.tasks.stacks import Stacks
    from engine.materialize.tasks.task import Task

    Pool = Callable[[Sequence[Task]], Iterator[Written]]
    """What runs tasks: anything that gives what each wrote, in any order."""


def threads(
    tasks: Sequence[Task], *, jobs: int | None = None, work: Callable[[Task, Stacks], Written] = execute
) -> Iterator[Written]:
    """What every task wrote, as it is done; None is as many threads as torch would use. `work` carries out one,
    with what it shares with others.

    One thread of linear algebra each, so that sums keep one order whatever the number of cores.
    """
    stacks = Shared()
    workers = min(jobs or torch.get_num_threads(), max(len(tasks), 1))
    # The setting is the calling thread's own, so it ends with the pool.
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    try:
        for future in as_completed([pool.submit(work, task, stacks) for task in side_by_side(tasks)]):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)
        # What the workers set is also what threads begun later would start with.
        torch.set_num_threads(torch.get_num_threads())
