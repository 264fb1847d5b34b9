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
    """`work` on every module, results in order, on `jobs` threads; None is as many as torch would use.

    One thread of linear algebra each: these matrices are too narrow to share, and sums keep one order whatever the
    number of cores, so that the same parents give the same bytes. `progress` is called in this thread with modules
    done, modules in all, and the name of the one done last.
    """
    workers = min(jobs or torch.get_num_threads(), len(modules))
    # The setting is the calling thread's own, so it ends with the pool.
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    try:
        futures = {pool.submit(work, module): module for module in modules}
        for done, future in enumerate(as_completed(futures), 1):
            future.result()
            if progress is not None:
                progress(done, len(modules), futures[future].name)
        return [future.result() for future in futures]
    finally:
        pool.shutdown(cancel_futures=True)
