"""How much of a merge the base's own dtype would swallow: elements of a weight that adding ΔW leaves as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from engine.format.files.dtypes import READABLE
from engine.format.names.canonical import canonical
from engine.format.numbers.samples import places
from engine.merge.matrices.dora import base_tensors, orientations

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from engine.format.facts import AdapterFacts
    from engine.merge.matrices.dora import BaseTensor
    from engine.merge.plan import ModulePlan


@dataclass(frozen=True, slots=True)
class BaseWeight:
    """The weight that a module adapts, as its checkpoint holds it: `transposed` is (in, out)."""

    tensor: BaseTensor
    transposed: bool

    def unmoved(self, B: Tensor, A: Tensor) -> tuple[float, float]:
        """Of the elements of W (m, n) how many round(W + B·A) in W's dtype leaves as they are, and how many there are;
        from a sample of a large one.
        """
        stored = self.tensor.read()
        W = stored.T if self.transposed else stored.flatten(1)
        rows, columns = (torch.tensor(one) for one in places(*W.shape))
        before = W.index_select(0, rows).index_select(1, columns)
        delta = B.cpu().index_select(0, rows).double() @ A.cpu().index_select(1, columns).double()
        after = (before.double() + delta).to(before.dtype)
        share = float((after.double() == before.double()).double().mean())
        return share * W.numel(), float(W.numel())


def base_weights(
    modules: Sequence[ModulePlan], parents: Sequence[AdapterFacts], base: Path | None
) -> Mapping[str, BaseWeight]:
    """The base's weight of every module that has one whole ΔW, of a floating dtype and the right shape; none without
    `base`. Reads headers only. Raises what `base_tensors` does.
    """
    if base is None:
        return {}
    tensors, found = base_tensors(base), {}
    for plan in modules:
        module = plan.pieces[0].module
        tensor = tensors.get(canonical(f"{module.base_name}.weight"))
        if plan.groups > 1 or plan.vector or tensor is None or tensor.info.dtype not in READABLE:
            continue
        fits = orientations(parents[plan.pieces[0].parent], module)
        if tensor.info.shape in fits:
            found[plan.name] = BaseWeight(tensor, fits[tensor.info.shape])
    return found
