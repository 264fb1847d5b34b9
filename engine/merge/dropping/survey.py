"""What a method must know of all modules before it merges the first: thresholds over a whole parent, and digests."""

from __future__ import annotations

import math
from dataclasses import replace
from threading import Lock
from typing import TYPE_CHECKING

import torch

from engine.format.files.digest import tensors_digest
from engine.merge.dropping.thresholds import Bracket, Counts, bracket, count, counted, narrowed, sample
from engine.merge.matrices.factors import grouped
from engine.merge.workers import each

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from engine.merge.matrices.factors import FactorFile
    from engine.merge.matrices.parts import Part
    from engine.merge.plan import MergePlan, ModulePlan

SAMPLE = 4096
"""Elements of each module in the sample."""


def with_digests(planned: MergePlan, files: Sequence[FactorFile], jobs: int | None) -> MergePlan:
    """The plan with the digest of every parent's tensors, read from its file where its source does not say.

    As it is where all elements are kept, and so none drawn.
    """
    del files, jobs
    if planned.options.density == 1:
        return planned
    both = zip(planned.sources, planned.parents, strict=True)
    found = (source.digest or tensors_digest(facts.weights, facts.header) for source, facts in both)
    return replace(planned, digests=tuple(found))


def with_thresholds(planned: MergePlan, files: Sequence[FactorFile], jobs: int | None) -> MergePlan:
    """The plan with the magnitude at which `density` of all elements of each parent is kept, exactly.

    As it is where thresholds are those of single modules, or all is kept. Reads all factors twice, for a sample and for
    the count; a third time where the sample erred.
    """
    density = planned.options.density
    if planned.options.trim != "global" or density is None or density == 1:
        return planned
    found, sizes = _brackets(planned, files, density, jobs)
    kept = {place: count(size, density) for place, size in sizes.items()}
    pending = dict(found)
    while pending:
        counts = _pass(planned, files, pending, jobs)
        found |= {place: narrowed(pending[place], one, kept[place]) for place, one in counts.items()}
        pending = {place: found[place] for place in pending if found[place].low < found[place].high}
    patterns = torch.tensor([found[place].low for place in range(len(planned.sources))], dtype=torch.int32)
    return replace(planned, thresholds=tuple(patterns.view(torch.float32).tolist()))


def _brackets(
    planned: MergePlan, files: Sequence[FactorFile], density: float, jobs: int | None
) -> tuple[dict[int, Bracket], dict[int, int]]:
    """Where each parent's threshold is to be expected, from a sample of every module, and its number of elements."""

    def sampled(module: ModulePlan) -> list[tuple[int, int, Tensor]]:
        drawn = ((place, part, sample(part, size=SAMPLE)) for place, part in _parts(planned, module, files))
        return [(place, math.prod(part.shape), one.cpu()) for place, part, one in drawn]

    patterns: dict[int, list[Tensor]] = {}
    sizes: dict[int, list[int]] = {}
    for found in each(planned.modules, sampled, jobs=jobs):
        for place, size, one in found:
            patterns.setdefault(place, []).append(one)
            sizes.setdefault(place, []).append(size)
    stands_for = {place: torch.tensor(ones, dtype=torch.float64) / SAMPLE for place, ones in sizes.items()}
    brackets = {
        place: bracket(torch.cat(ones), stands_for[place].repeat_interleave(SAMPLE), density)
        for place, ones in patterns.items()
    }
    return brackets, {place: sum(ones) for place, ones in sizes.items()}


def _pass(
    planned: MergePlan, files: Sequence[FactorFile], pending: Mapping[int, Bracket], jobs: int | None
) -> dict[int, Counts]:
    """The counts of all modules together of the parents in `pending`, each in its bracket."""
    totals = {place: Counts(0, torch.zeros(one.bins, dtype=torch.int64)) for place, one in pending.items()}
    lock = Lock()

    def add(module: ModulePlan) -> None:
        for place, part in _parts(planned, module, files):
            if place in pending:
                found = counted(part, pending[place])
                with lock:
                    totals[place].add(found)

    each(planned.modules, add, jobs=jobs)
    return totals


def _parts(planned: MergePlan, module: ModulePlan, files: Sequence[FactorFile]) -> Iterator[tuple[int, Part]]:
    for parts in grouped(module, files, precise=planned.dtype == "F64"):
        yield from zip((piece.parent for piece in module.pieces), parts, strict=True)
