"""Work on every module, on several threads, with results in order."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.merge.plan import ModulePlan

    Progress = Callable[[int, int, str], None]

T = TypeVar("T")


def each(
    modules: Sequence[ModulePlan],
    work: Callable[[ModulePlan], T],
    *,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> list[T]:
    """`work` on every module, results in order; the rest as `each_batch`."""
    return each_batch([[module] for module in modules], lambda one: [work(one[0])], jobs=jobs, progress=progress)


def each_batch(
    batches: Sequence[Sequence[ModulePlan]],
    work: Callable[[Sequence[ModulePlan]], Sequence[T]],
    *,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> list[T]:
    """`work` on every batch, its results one after the other in the order of the batches, on `jobs` threads; None is as
    many as torch would use.

    One thread of linear algebra each: these matrices are too narrow to share, and sums keep one order whatever the
    number of cores, so that the same parents give the same bytes. `progress` is called in this thread with modules
    done, modules in all, and the name of one done last.
    """
    workers = min(jobs or torch.get_num_threads(), len(batches))
    # The setting is the calling thread's own, so it ends with the pool.
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    done, total = 0, sum(map(len, batches))
    try:
        futures = {pool.submit(work, batch): batch for batch in batches}
        for future in as_completed(futures):
            done += len(future.result())
            if progress is not None:
                progress(done, total, futures[future][-1].name)
        return [result for future in futures for result in future.result()]
    finally:
        pool.shutdown(cancel_futures=True)
        # What the workers set is also what threads begun later would start with.
        torch.set_num_threads(torch.get_num_threads())
