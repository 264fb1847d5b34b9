"""Modules that are no target of factors and whose bias an adapter replaces: norms and transposed convolutions.

A bias is the last thing that they add, along the last dimension or along the channels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvTransposeNd

from engine.model.kinds.exchanged import Begun, begin
from engine.model.kinds.into import merged_outputs
from engine.model.kinds.kind import Kind
from engine.model.kinds.pick import picks
from engine.model.kinds.sections import cut
from engine.model.kinds.vectors import raw_vectors, shift, step, vector_shapes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from engine.model.fitting.part import Part
    from engine.model.kinds.kind import Shape
    from engine.model.memory.layout import Want
    from engine.model.sites.site import Site

_CHANNELS = (_BatchNorm, nn.GroupNorm, _ConvTransposeNd)


def holds(module: nn.Module) -> bool:
    """Whether it is a norm of torch with a bias, or one of the same make: the class of a model's own LayerNorm."""
    known = isinstance(module, (nn.LayerNorm, nn.Bilinear, *_CHANNELS)) or type(module).__name__.endswith("LayerNorm")
    return known and getattr(module, "bias", None) is not None


def _count(module: nn.Module) -> int:
    bias: Tensor = module.bias  # type: ignore[assignment]  # `holds` saw that it is one
    return bias.numel()


def expects(part: Part) -> dict[str, Shape]:
    bias: Tensor = part.module.bias  # type: ignore[assignment]  # `holds` saw that it is one
    return {"bias": tuple(bias.shape)}


def shapes(module: nn.Module, want: Want) -> dict[str, Shape]:
    return vector_shapes(want, _count(module), _count(module))


def derived(part: Part, sections: Mapping[str, Tensor]) -> dict[str, Tensor]:
    bias: Tensor = part.module.bias  # type: ignore[assignment]  # `holds` saw that it is one
    return {"shift": shift(part.module, sections["bias"].view(bias.shape)).flatten()}


def raw(_part: Part, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The adapter's tensors by section."""
    return raw_vectors(tensors)


def stored(views: Mapping[str, Tensor], part: Part) -> dict[str, Tensor]:
    return {"bias": cut(views["bias"], expects(part)["bias"])}


def forward(site: Site, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    plan = site.switch.plan
    if plan is None or args or kwargs:  # a size, or a second input
        y: Tensor = site.original(x, *args, **kwargs)
    by_channel = isinstance(site.module, _CHANNELS)
    if plan is None:
        return y
    steps = picks(site, plan, x, 1 - x.dim() if by_channel else -1)
    begun = begin(site, x, steps) if not (args or kwargs) else Begun(y.to(site.dtype), y.dtype, None)
    out, shape = begun.y, begun.y.shape
    if not by_channel:  # several normalised dimensions lie flat in one section
        out = out.flatten(out.dim() - site.module.bias.dim())  # type: ignore[operator]  # `holds` saw a tensor
    for pick in steps:
        out, _ = step(out, None, pick, None, moved=begun.exchanged)
    return out.view(shape).to(begun.dtype)


def merged(
    _site: Site, values: Mapping[str, Tensor], views: Mapping[str, Tensor], part: Part, factor: float
) -> dict[str, Tensor]:
    flat = {"bias": values["bias"].flatten()}
    return {"bias": merged_outputs(flat, views, part, factor, None)["bias"].view(values["bias"].shape)}


NORM = Kind("norm", holds, shapes, raw, stored, forward, merged, expects=expects, derived=derived)
"""After the kinds with factors, in the table of kinds."""
