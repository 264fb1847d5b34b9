"""Carries out a merge: module by module, one parent tensor pair and one result at a time per worker."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Literal

import torch

from engine.errors import DestinationError, RefusedError
from engine.format.writer import TensorWriter
from engine.merge.dtypes import LONG_NAMES
from engine.merge.factors import TORCH_DTYPES, FactorFile, as_bytes, grouped
from engine.merge.measure import add, measure, merge_report, module_report, rounding_error, spread
from engine.merge.methods import METHODS
from engine.merge.plan import plan
from engine.merge.refusals import refusal
from engine.merge.subspace import join

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from torch import Tensor

    from engine.merge.measure import Sums
    from engine.merge.plan import MergePlan, ModulePlan
    from engine.merge.report import MergeReport, ModuleReport
    from engine.merge.source import Source


def merge(
    sources: Sequence[Source],
    *,
    method: str,
    out: Path,
    rank: int | Literal["max"] | None = None,
    dtype: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> MergeReport:
    """Merges the adapters `sources` into the new folder `out`, which PEFT loads.

    `rank` None is the largest effective rank of the parents, "max" as many as keep everything; only `svd` takes one.
    `dtype` None is the parents' widest. `progress` is called in this thread with modules done and in all.

    Raises what `plan` does; RefusedError also for values that are not finite, in a parent or after rounding to
    `dtype`; DestinationError where `out` is more than an empty folder, or cannot be made or written.
    """
    return apply(plan(sources, method=method, rank=rank, dtype=dtype), out, progress=progress)


def apply(planned: MergePlan, out: Path, *, progress: Callable[[int, int], None] | None = None) -> MergeReport:
    """Carries out `planned` as `merge` says. Whatever stops it, `out` is left as it was."""
    with _fresh_folder(out):
        measured = _write_weights(planned, out / "adapter_model.safetensors", progress)
        # Last, because a folder without it is no adapter.
        (out / "adapter_config.json").write_text(json.dumps(planned.config, indent=2) + "\n", encoding="utf-8")
    weights = [source.weight for source in planned.sources]
    return merge_report(planned.method, planned.rank, LONG_NAMES[planned.dtype], measured, weights)


@contextmanager
def _fresh_folder(out: Path) -> Iterator[None]:
    existed = out.exists()
    if existed and (not out.is_dir() or any(out.iterdir())):
        raise DestinationError(out, "exists; give the name of a new folder")
    try:
        out.mkdir(exist_ok=True)
    except OSError as error:
        raise DestinationError(out, error.strerror or str(error)) from error
    try:
        yield
    except BaseException as error:
        for path in out.iterdir():
            path.unlink()
        if not existed:
            out.rmdir()
        if isinstance(error, OSError):
            raise DestinationError(out, error.strerror or str(error)) from error
        raise


def _write_weights(
    planned: MergePlan, path: Path, progress: Callable[[int, int], None] | None
) -> list[tuple[ModuleReport, Sums]]:
    tensors = {copy.info.name: (copy.info.dtype, copy.info.shape) for copy in planned.copies}
    for module in planned.modules:
        tensors[module.a_key] = (planned.dtype, module.a_shape)
        tensors[module.b_key] = (planned.dtype, module.b_shape)
    with ExitStack() as stack:
        writer = stack.enter_context(TensorWriter(path, tensors))
        files = [stack.enter_context(FactorFile(facts)) for facts in planned.parents]
        for copy in planned.copies:
            writer.put_blocks(copy.info.name, copy.blocks())
        return _each(planned.modules, lambda module: _merge_module(planned, module, files, writer), progress)


def _merge_module(
    planned: MergePlan, module: ModulePlan, files: Sequence[FactorFile], writer: TensorWriter
) -> tuple[ModuleReport, Sums]:
    dtype = TORCH_DTYPES[planned.dtype]
    method = METHODS[planned.method]
    each = module.rank // module.groups
    factors: list[tuple[Tensor, Tensor]] = []
    sums: list[Sums] = []
    spectrum: list[float] | None = None
    for parts in grouped(module, planned.sources, files):
        try:
            joint = join(parts, precise=planned.dtype == "F64")
        except FloatingPointError as error:
            raise _refused(module.name, f"{error}: a parent holds NaN, an infinity or numbers too large") from None
        B, A = method.combine(parts, joint, each)
        rounded = B.to(dtype), A.to(dtype)
        rounding = rounding_error(B, A, *rounded)
        if not math.isfinite(rounding):
            raise _refused(module.name, f"the result does not fit {LONG_NAMES[planned.dtype]}; choose a wider dtype")
        factors.append(rounded)
        kept = len(joint.S) if method.exact else each
        sums.append(measure(joint, kept, rounding))
        spectrum = joint.S[:kept].tolist()
    writer.put(module.b_key, as_bytes(torch.cat([B for B, _ in factors])))
    writer.put(module.a_key, as_bytes(torch.cat([A for _, A in factors])))
    total = spread(add(sums), [piece.parent for piece in module.pieces], len(planned.sources))
    weights = [source.weight for source in planned.sources]
    shown = spectrum if module.groups == 1 else None
    return module_report(module.name, module.rank, shown, total, weights), total


def _refused(module: str, reason: str) -> RefusedError:
    return RefusedError([refusal("merge-values", f"{module}: {reason}", where=module)])


def _each(
    modules: Sequence[ModulePlan],
    work: Callable[[ModulePlan], tuple[ModuleReport, Sums]],
    progress: Callable[[int, int], None] | None,
) -> list[tuple[ModuleReport, Sums]]:
    """`work` on every module, results in order, on as many threads as torch would use.

    One thread of linear algebra each: these matrices are too narrow to share, and sums keep one order whatever the
    number of cores, so that the same parents give the same bytes.
    """
    workers = min(torch.get_num_threads(), len(modules))
    # The setting is the calling thread's own, so it ends with the pool.
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    try:
        futures = [pool.submit(work, module) for module in modules]
        for done, future in enumerate(as_completed(futures), 1):
            future.result()
            if progress is not None:
                progress(done, len(modules))
        return [future.result() for future in futures]
    finally:
        pool.shutdown(cancel_futures=True)
