"""Carries out a merge: module by module, the parents' factors of one module and one result at a time per worker."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING

import torch

from engine.format.files.folder import fresh_folder
from engine.format.files.writer import TensorWriter, header_size
from engine.merge.device import TOGETHER, batches, parse_device
from engine.merge.given.ranks import ranks
from engine.merge.matrices.factors import FactorFile
from engine.merge.measuring.measure import merge_report
from engine.merge.module import Writing, merge_modules, spectrum
from engine.merge.planning import DEFAULT_RULE, NO_OPTIONS, check_weights, plan
from engine.merge.workers import each, each_batch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from engine.merge.given.options import Options
    from engine.merge.given.ranks import RankRule
    from engine.merge.given.source import Source
    from engine.merge.given.weights import Weight
    from engine.merge.measuring.measure import Sums
    from engine.merge.measuring.report import MergeReport, ModuleReport
    from engine.merge.plan import MergePlan, ModulePlan
    from engine.merge.workers import Progress

WEIGHTS = "adapter_model.safetensors"


def merge(
    sources: Sequence[Source],
    *,
    method: str,
    out: Path,
    semantics: str = "exact",
    rule: RankRule = DEFAULT_RULE,
    options: Options = NO_OPTIONS,
    dtype: str | None = None,
    other: str = "refuse",
    base: Path | None = None,
    jobs: int | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> MergeReport:
    """Merges the adapters `sources` into the new folder `out`, which PEFT loads.

    `rule` says how ranks are chosen; where it says nothing, methods that stack take the sum of the parents' and the
    others the largest effective rank of any parent. `dtype` None is the parents' widest. `other` and `base` are
    `plan`'s. `jobs` is the number of threads, `device` where they compute (`cpu`, `cuda`, `cuda:N`); `progress` is
    called in this thread with modules done, modules in all, and the last one's name.

    Raises what `plan` does; RefusedError also for values that are not finite, in a parent or after rounding to
    `dtype`; DestinationError where `out` is more than an empty folder, or cannot be made or written.
    """
    planned = plan(
        sources,
        method=method,
        semantics=semantics,
        rule=rule,
        options=options,
        dtype=dtype,
        other=other,
        base=base,
    )
    return apply(planned, out, jobs=jobs, device=device, progress=progress)


def apply(
    planned: MergePlan,
    out: Path,
    *,
    jobs: int | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> MergeReport:
    """Carries out `planned` as `merge` says. Whatever stops it, `out` is left as it was."""
    weights = [source.weighting for source in planned.sources]
    return apply_grid(planned, [weights], [out], jobs=jobs, device=device, progress=progress)[0]


def apply_grid(
    planned: MergePlan,
    weights: Sequence[Sequence[Weight]],
    outs: Sequence[Path],
    *,
    jobs: int | None = None,
    device: str = "cpu",
    together: int | None = None,
    progress: Progress | None = None,
) -> list[MergeReport]:
    """Carries out `planned` once for each row of `weights`, one a parent, into the folder of `outs` at its place.

    Parents are read and factored once for all of them. `together` is how many modules of one shape are taken at once;
    None is what suits the device. A rule that measures is no rule for several results at once: raises ValueError.
    Raises OptionError for a row that the method cannot take, before anything is made.
    """
    if planned.rule.measured and len(weights) > 1:
        raise ValueError("one rank rule of energy or budget for one result")
    for row in weights:
        check_weights(planned, row)
    where = parse_device(device)
    with ExitStack() as stack:
        for out in outs:
            stack.enter_context(fresh_folder(out))
        files = [stack.enter_context(FactorFile(facts, device=where)) for facts in planned.parents]
        survey = planned.row.survey
        known = survey(planned, files, jobs) if survey else planned
        settled = _settled(known, weights[0], files, jobs) if planned.rule.measured else known
        alike = batches(settled.modules, together=_together(settled, where, together))
        measured = _write_weights(settled, weights, outs, files, alike, jobs=jobs, progress=progress)
        for out in outs:
            # Last, because a folder without it is no adapter.
            (out / "adapter_config.json").write_text(json.dumps(settled.config, indent=2) + "\n", encoding="utf-8")
    return [
        merge_report(settled, modules, [weight.default for weight in row])
        for modules, row in zip(measured, weights, strict=True)
    ]


def _together(planned: MergePlan, where: torch.device, asked: int | None) -> int:
    """How many modules of one shape are taken at once: one by one where the order decides what is drawn."""
    if planned.row.ordered:
        return 1
    return asked or (1 if where.type == "cpu" else TOGETHER)


def _settled(planned: MergePlan, weights: Sequence[Weight], files: Sequence[FactorFile], jobs: int | None) -> MergePlan:
    """The plan with the ranks that its rule gives for the spectra of all modules."""
    found = each(planned.modules, lambda module: spectrum(planned, module, files, weights), jobs=jobs)
    spectra = {module.name: one for module, one in zip(planned.modules, found, strict=True)}
    fixed = header_size(planned.tensors) + sum(one.size for one in planned.others)
    return planned.with_ranks(ranks(planned.rule, spectra, fixed=fixed))


def _write_weights(
    planned: MergePlan,
    weights: Sequence[Sequence[Weight]],
    outs: Sequence[Path],
    files: Sequence[FactorFile],
    together: Sequence[Sequence[ModulePlan]],
    *,
    jobs: int | None,
    progress: Progress | None,
) -> list[list[tuple[ModuleReport, Sums]]]:
    """The measures of every module, a list for each row of weights."""
    with ExitStack() as stack:
        writings = [
            Writing(row, stack.enter_context(TensorWriter(out / WEIGHTS, planned.tensors)), _random(planned))
            for row, out in zip(weights, outs, strict=True)
        ]
        for one in planned.others:
            for writing in writings:
                writing.writer.put_blocks(one.name, one.blocks(writing.weights))
        found = each_batch(
            together,
            lambda batch: merge_modules(planned, batch, files, writings),
            jobs=1 if planned.row.ordered else jobs,
            progress=progress,
        )
    names = [module.name for batch in together for module in batch]
    by_name = dict(zip(names, found, strict=True))
    return [list(one) for one in zip(*(by_name[module.name] for module in planned.modules), strict=True)]


def _random(planned: MergePlan) -> torch.Generator | None:
    """What the modules of one result draw from, one after the other, where the method is of that kind."""
    seed = planned.options.seed
    return torch.Generator().manual_seed(seed) if planned.row.ordered and seed is not None else None
