"""What a method must know of all modules before it merges the first: thresholds over a whole parent, and digests."""

from __future__ import annotations

import math
from dataclasses import replace
from threading import Lock
from typing import TYPE_CHECKING

import torch

from engine.format.digest import tensors_digest
from engine.merge.factors import grouped
from engine.merge.methods.signs import count
from engine.merge.thresholds import Bracket, Counts, bracket, counted, narrowed, sample
from engine.merge.workers import each

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from engine.merge.factors import FactorFile
    from engine.merge.parts import Part
    from engine.merge.plan import MergePlan, ModulePlan
    from engine.merge.thresholds import Shape

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
    sizes = [0] * len(planned.sources)
    for module in planned.modules:
        for piece in module.pieces:
            sizes[piece.parent] += math.prod(_shape(module)) * module.groups
    kept = [count(size, density) for size in sizes]
    found = _brackets(planned, files, density, jobs)
    pending = dict(found)
    while pending:
        counts = _pass(planned, files, pending, jobs)
        found |= {place: narrowed(pending[place], one, kept[place]) for place, one in counts.items()}
        pending = {place: found[place] for place in pending if found[place].low < found[place].high}
    patterns = torch.tensor([found[place].low for place in range(len(sizes))], dtype=torch.int32)
    return replace(planned, thresholds=tuple(patterns.view(torch.float32).tolist()))


def _brackets(planned: MergePlan, files: Sequence[FactorFile], density: float, jobs: int | None) -> dict[int, Bracket]:
    """Where each parent's threshold is to be expected, from a sample of every module."""

    def sampled(module: ModulePlan) -> list[tuple[int, Tensor]]:
        shape = _shape(module)
        return [(place, sample(part, shape, size=SAMPLE)) for place, part in _parts(module, files)]

    patterns: dict[int, list[Tensor]] = {}
    weights: dict[int, list[float]] = {}
    for module, found in zip(planned.modules, each(planned.modules, sampled, jobs=jobs), strict=True):
        for place, one in found:
            patterns.setdefault(place, []).append(one.cpu())
            weights.setdefault(place, []).append(math.prod(_shape(module)) / SAMPLE)
    return {
        place: bracket(
            torch.cat(ones), torch.tensor(weights[place], dtype=torch.float64).repeat_interleave(SAMPLE), density
        )
        for place, ones in patterns.items()
    }


def _pass(
    planned: MergePlan, files: Sequence[FactorFile], pending: Mapping[int, Bracket], jobs: int | None
) -> dict[int, Counts]:
    """The counts of all modules together of the parents in `pending`, each in its bracket."""
    totals = {place: Counts(0, torch.zeros(one.bins, dtype=torch.int64)) for place, one in pending.items()}
    lock = Lock()

    def add(module: ModulePlan) -> None:
        for place, part in _parts(module, files):
            if place in pending:
                found = counted(part, _shape(module), pending[place])
                with lock:
                    totals[place].add(found)

    each(planned.modules, add, jobs=jobs)
    return totals


def _parts(module: ModulePlan, files: Sequence[FactorFile]) -> Iterator[tuple[int, Part]]:
    for parts in grouped(module, files):
        yield from zip((piece.parent for piece in module.pieces), parts, strict=True)


def _shape(module: ModulePlan) -> Shape:
    """(rows, columns) of the ΔW of one group."""
    return module.b_shape[0] // module.groups, math.prod(module.a_shape[1:])
