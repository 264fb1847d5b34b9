"""What a layer of half precision computes with an adapter's own bias in the place of the base's, rounded once.

Were the difference of the two added to what the layer computed with the base's, its error would be that of the larger
of the two sums, and one rounding more than PEFT's, which exchanges the parameter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from engine.model.kinds.vectors import bias_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from engine.model.kinds.pick import Pick
    from engine.model.sites.site import Site

    Code = Callable[[Any, Tensor, Tensor | None, Tensor | None], Tensor]
    """(module, x, weight, bias or None) to its result."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A module's result `y` in the site's dtype, before adapters act; `dtype` is that of the module's own result.

    `bias` is the one in `y` in a shape that spreads over it, None where nothing needs it or there is none. `exchanged`:
    the adapters' own biases are in `y` already.
    """

    y: Tensor
    dtype: torch.dtype
    bias: Tensor | None
    exchanged: bool = False


def begin(site: Site, x: Tensor, steps: Sequence[Pick]) -> Begun:
    """Compute the module's result; rows of slot 0 have the base's bits."""
    code = _code(site, x, steps)
    if code is None:
        own: Tensor = site.original(x)
        y = own.to(site.dtype)
        return Begun(y, own.dtype, bias_of(site.module, y, steps[0]) if steps else None)
    index = steps[0].index
    bias = _bias(site, steps)
    if index is None:
        result = code(site.module, x, _weight(site.module), bias)
        y = result.to(site.dtype)
        return Begun(y, result.dtype, _spread(bias, y, steps[0]), exchanged=True)
    own = site.original(x)
    y = own.to(site.dtype)
    bias = _spread(bias, y, steps[0])
    most = index
    for pick in steps[1:]:
        most = most if pick.index is None else torch.maximum(most, pick.index)
    by_rows = most.view(-1, *([1] * (y.dim() - 1))) > 0
    return Begun(torch.where(by_rows, _rows(site, code, x, bias), y), own.dtype, bias, exchanged=True)


def _code(site: Site, x: Tensor, steps: Sequence[Pick]) -> Code | None:
    """What the module computes with another bias; None where no bias is another, where nothing is rounded, where
    a scale comes in between, and where the code is not torch's own: a subclass's, a quantised layer's, an override's.
    """
    if not steps or "shift" not in site.stacks or x.dtype is site.dtype:
        return None
    if len(steps) > 1 and "l_out" in site.stacks:
        return None
    original, module = site.original, site.module
    if getattr(original, "__self__", None) is not module or module.bias.dim() > 1:
        return None
    if module.training and isinstance(module, _BatchNorm):
        return None
    forward = getattr(original, "__func__", None)
    turned = type(module).__name__ == "Conv1D" and forward is type(module).forward
    return _turned if turned else _CODE.get(forward)


def _bias(site: Site, steps: Sequence[Pick]) -> Tensor:
    """The bias with what the steps add to it, in the module's dtype: flat, or (rows, n)."""
    own: Tensor = site.module.bias  # type: ignore[assignment]  # a module whose bias adapters replace has one
    found = own.flatten().to(site.dtype)
    for pick in steps:
        change = pick.of("shift")
        found = found + pick.taken(change)
    return found.to(own.dtype)


def _spread(bias: Tensor, y: Tensor, pick: Pick) -> Tensor:
    """The bias in the site's dtype and a shape that spreads over y."""
    shape = [1] * y.dim()
    if bias.dim() > 1:
        shape[0] = bias.shape[0]
    shape[pick.axis] = bias.shape[-1]
    return bias.to(y.dtype).view(shape)


def _rows(site: Site, code: Code, x: Tensor, bias: Tensor) -> Tensor:
    """Every row with its own bias, in the site's dtype; products of matrices in half precision, for speed."""
    W = _weight(site.module)
    if W is not None and code in (_linear, _turned):
        rows = x.reshape(x.shape[0], -1, x.shape[-1])
        right = (W if code is _turned else W.t()).expand(x.shape[0], -1, -1)
        flat = bias.reshape(x.shape[0], 1, -1).to(x.dtype)
        return torch.baddbmm(flat, rows, right).view(*x.shape[:-1], -1).to(site.dtype)
    return code(site.module, x.to(site.dtype), None if W is None else W.to(site.dtype), None) + bias


def _weight(module: nn.Module) -> Tensor | None:
    found: Tensor | None = module.weight  # type: ignore[assignment]  # the layers below have one, or None
    return found


def _linear(_module: nn.Module, x: Tensor, weight: Any, bias: Tensor | None) -> Tensor:
    return functional.linear(x, weight, bias)


def _turned(_module: nn.Module, x: Tensor, weight: Any, bias: Tensor | None) -> Tensor:
    return functional.linear(x, weight.t(), bias)


def _conv(module: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    found: Tensor = module._conv_forward(x, weight, bias)  # noqa: SLF001 - pads as the base does
    return found


def _layer_norm(module: nn.LayerNorm, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    return functional.layer_norm(x, module.normalized_shape, weight, bias, module.eps)


def _group_norm(module: nn.GroupNorm, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    return functional.group_norm(x, module.num_groups, weight, bias, module.eps)


def _batch_norm(module: _BatchNorm, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    mean, variance = (None if held is None else held.to(x.dtype) for held in (module.running_mean, module.running_var))
    return functional.batch_norm(x, mean, variance, weight, bias, training=mean is None, eps=module.eps)


_CODE: Mapping[object, Code] = {
    nn.Linear.forward: _linear,
    nn.Conv1d.forward: _conv,
    nn.Conv2d.forward: _conv,
    nn.Conv3d.forward: _conv,
    nn.LayerNorm.forward: _layer_norm,
    nn.GroupNorm.forward: _group_norm,
    _BatchNorm.forward: _batch_norm,
}
"""By the forward that runs."""
