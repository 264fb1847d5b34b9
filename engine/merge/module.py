"""One module of a merge: its parents' factors in, the result's factors and measures out."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch.nn.utils.rnn import pad_sequence

from engine.compat.together.refusals import refusal
from engine.errors import RefusedError
from engine.merge.dtypes import LONG_NAMES, SIZES
from engine.merge.given.ranks import Spectrum, searched
from engine.merge.matrices.factors import TORCH_DTYPES, as_bytes, grouped, joined, padded
from engine.merge.matrices.parts import Parts, join_together
from engine.merge.measuring.measure import add, measure, module_report, spread
from engine.merge.methods import Site
from engine.merge.peft.order import transposed
from engine.merge.result.ia3 import vector_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Generator, Tensor

    from engine.format.files.writer import TensorWriter
    from engine.merge.given.weights import Weight
    from engine.merge.matrices.factors import FactorFile
    from engine.merge.matrices.target import Target
    from engine.merge.measuring.measure import Sums
    from engine.merge.measuring.report import ModuleReport
    from engine.merge.plan import MergePlan, ModulePlan


@dataclass(frozen=True, slots=True)
class Writing:
    """One result: a weight for every source, the open weights file, and what its modules draw from in turn."""

    weights: Sequence[Weight]
    writer: TensorWriter
    random: Generator | None = None


def merge_modules(
    planned: MergePlan, batch: Sequence[ModulePlan], files: Sequence[FactorFile], writings: Sequence[Writing]
) -> list[list[tuple[ModuleReport, Sums]]]:
    """Merges and writes modules of one shape, each once for each of `writings`, whose measures are in their order.

    Raises RefusedError for values that are not finite.
    """
    groups = [list(_groups(planned, module, files)) for module in batch]
    if len(batch) > 1:
        with suppress(FloatingPointError):  # each module then says for itself that it holds one
            join_together([parts for one in groups for parts in one])
    pairs = list(zip(batch, groups, strict=True))
    return [[_write(planned, module, parts, writing) for writing in writings] for module, parts in pairs]


def spectrum(
    planned: MergePlan, module: ModulePlan, files: Sequence[FactorFile], weights: Sequence[Weight]
) -> Spectrum:
    """What the ranks of one module are worth: all up to its planned rank, or where the method is dense as many as the
    plan's rule asks about.
    """
    groups = list(_groups(planned, module, files))
    most = module.rank // module.groups
    if not planned.row.dense:
        return _spectrum(planned, module, groups, weights)

    def look(steps: int) -> Spectrum:
        return _spectrum(planned, replace(module, rank=steps * module.groups), groups, weights)

    return searched(planned.rule, look, first=sum(groups[0].ranks), most=most)


def _spectrum(planned: MergePlan, module: ModulePlan, groups: Sequence[Parts], weights: Sequence[Weight]) -> Spectrum:
    targets = [_target(planned, module, group, parts, weights=weights) for group, parts in enumerate(groups)]
    # A group of zeros, or one taken apart whole, may show another number of values than the rest.
    levels = pad_sequence([target.S.square() for target in targets]).sum(1)
    size = math.prod(module.a_shape) + math.prod(module.b_shape)
    steps = module.rank // module.groups
    return Spectrum(
        levels=levels.tolist(),
        energy=math.fsum(target.energy for target in targets),
        step=module.groups,
        cost=size // steps * SIZES[planned.dtype],
    )


def _groups(planned: MergePlan, module: ModulePlan, files: Sequence[FactorFile]) -> Iterator[Parts]:
    precise = planned.dtype == "F64"
    for parts in grouped(module, files, precise=precise):
        yield Parts(parts, precise=precise)


def _target(
    planned: MergePlan,
    module: ModulePlan,
    group: int,
    parts: Parts,
    *,
    weights: Sequence[Weight],
    random: Generator | None = None,
) -> Target:
    here = [weight.of(module.name) for weight in weights]
    present = [piece.parent for piece in module.pieces]
    site = Site(
        weights=[here[parent] for parent in present],
        absent=[weight for parent, weight in enumerate(here) if parent not in present],
        rank=module.rank // module.groups,
        module=module.name,
        group=group,
        keys=[planned.digests[piece.parent] for piece in module.pieces] if planned.digests else (),
        thresholds=[planned.thresholds[piece.parent] for piece in module.pieces] if planned.thresholds else (),
        options=planned.options,
        random=random,
        transposed=transposed(module, planned.parents),
        inflation=planned.inflation,
    )
    try:
        return planned.row.combine(parts, site)
    except FloatingPointError as error:
        raise _refused(module.name, f"{error}: a parent holds NaN, an infinity or numbers too large") from None


def _write(
    planned: MergePlan, module: ModulePlan, groups: Sequence[Parts], writing: Writing
) -> tuple[ModuleReport, Sums]:
    dtype = TORCH_DTYPES[planned.dtype]
    factors: list[tuple[Tensor, Tensor]] = []
    sums: list[Sums] = []
    spectrum: list[float] | None = None
    for group, parts in enumerate(groups):
        target = _target(planned, module, group, parts, weights=writing.weights, random=writing.random)
        B, A = padded(*target.factors(module.rank // module.groups), module.rank // module.groups)
        if module.vector:
            B, A = B @ A, torch.ones(1, 1, dtype=B.dtype, device=B.device)
        rounded = B.to(dtype), A.to(dtype)
        sums.append(measure(parts, target, (B, A), rounded))
        if not math.isfinite(sums[-1].rounding):
            raise _refused(module.name, f"the result does not fit {LONG_NAMES[planned.dtype]}; choose a wider dtype")
        factors.append(rounded)
        spectrum = target.S.tolist()
    whole_b, whole_a = joined(module, factors)
    if module.vector:
        writing.writer.put(vector_key(module.name), as_bytes(whole_b))
    else:
        writing.writer.put(module.b_key, as_bytes(whole_b))
        writing.writer.put(module.a_key, as_bytes(whole_a))
    weights = [weight.of(module.name) for weight in writing.weights]
    total = spread(add(sums), [piece.parent for piece in module.pieces], weights)
    base = planned.base_weights.get(module.name)
    if base is not None:
        total = replace(total, unmoved=base.unmoved(whole_b.flatten(1), whole_a.flatten(1)))
    shown = spectrum if module.groups == 1 else None
    return module_report(module.name, module.declared_rank, shown, total, weights), total


def _refused(module: str, reason: str) -> RefusedError:
    return RefusedError([refusal("merge-values", f"{module}: {reason}", where=module)])
