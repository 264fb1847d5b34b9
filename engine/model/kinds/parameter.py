"""A parameter that is adapted itself: experts of a mixture (experts, …), attention's projections, any matrix.

Factors are A (experts, r, in) and B (experts, out, r), without the first dimension for a matrix. On disk PEFT has
A as (experts·r, in), expert by expert, and B as (out, r·experts), the experts running fastest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from engine.model.kinds.kind import Kind
from engine.model.memory.tensordata import wide
from engine.model.sites.replaced import TensorSite, forward

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from engine.model.fitting.part import Part
    from engine.model.kinds.kind import Shape
    from engine.model.memory.layout import Want
    from engine.model.sites.site import Site


def widths(module: nn.Module, leaf: str) -> tuple[int, int, int]:
    """(experts, in, out) of a parameter: experts is 0 for a matrix, which is (out, in).

    With three dimensions it is (experts, out, in), or (experts, in, out) where the module says `is_transposed`.
    """
    shape = tuple(getattr(module, leaf).shape)
    if len(shape) == 2:
        return 0, shape[1], shape[0]
    experts, one, two = shape
    return (experts, one, two) if is_transposed(module) else (experts, two, one)


def is_transposed(module: nn.Module) -> bool:
    """Whether a parameter of three dimensions ends in (in, out)."""
    return bool(getattr(module, "is_transposed", False))


def shapes(module: nn.Module, want: Want) -> dict[str, Shape]:
    experts, fan_in, fan_out = widths(module, want.leaf)
    many = (experts,) if experts else ()
    return {"A": (*many, want.rank, fan_in), "B": (*many, fan_out, want.rank)}


def raw(part: Part, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The adapter's tensors by section."""
    A, B = tensors["A"], tensors["B"]
    experts, _, _ = widths(part.module, part.leaf)
    if experts:
        A = A.view(experts, part.rank, -1)
        B = B.view(-1, part.rank, experts).permute(2, 0, 1)
    return {"A": A, "B": B}


def stored(views: Mapping[str, Tensor], part: Part) -> dict[str, Tensor]:
    A, B = views["A"][..., : part.rank, :], views["B"][..., : part.rank]
    if A.dim() == 3:
        A, B = A.flatten(0, 1), B.permute(1, 2, 0).flatten(1)
    return {"A": A.clone(), "B": B.clone()}


def added(W: Tensor, A: Tensor, B: Tensor, scale: float, *, transposed: bool) -> Tensor:
    """W + scale·B·A in float32 (float64 for such a W), of which ΔW alone is never made. W is left as it is."""
    left, right = (A.mT, B.mT) if transposed else (B, A)
    add = torch.baddbmm if W.dim() == 3 else torch.addmm
    dtype = wide(W.dtype)
    return add(W.to(dtype), left.to(dtype), right.to(dtype), alpha=scale)


def replaced(site: Site, slots: Sequence[int], factors: Sequence[float]) -> Tensor | None:
    """The parameter with the slots' parts, rounded once; None where none has one."""
    W = _tensor(site)
    found = None
    for slot, factor in zip(slots, factors, strict=True):
        scale = site.factors.numbers[slot] * factor
        if scale:
            held = site.sections(slot)
            found = added(W if found is None else found, held["A"], held["B"], scale, transposed=_turned(site, W))
    return None if found is None else found.to(W.dtype)


def merged(
    site: Site, values: Mapping[str, Tensor], views: Mapping[str, Tensor], part: Part, factor: float
) -> dict[str, Tensor]:
    W = values[part.leaf]
    A, B = views["A"][..., : part.rank, :], views["B"][..., : part.rank]
    return {part.leaf: added(W, A, B, part.scaling * factor, transposed=_turned(site, W))}


def _tensor(site: Site) -> Tensor:
    if not isinstance(site, TensorSite):
        raise TypeError(f"{site.path}: not a tensor's site")
    return site.tensor


def _turned(site: Site, W: Tensor) -> bool:
    return W.dim() == 3 and is_transposed(site.module)


def holds(_module: nn.Module) -> bool:
    """No module is of this kind by itself: the adapter names the parameter."""
    return False


PARAMETER = Kind("parameter", holds, shapes, raw, stored, forward, merged, replaced, seals=False)
