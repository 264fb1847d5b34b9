"""Convolutions of one to three dimensions.

As in PEFT, A has the base's kernel, stride and padding and no groups, B is a kernel of one with the base's groups, and
A pads with zeros whatever the base pads with.

In an image the ranks lie group by group, A (groups, r / groups, in, *kernel) and B (out, r / groups): the same in every
layout, however large its rank.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from engine.compat.finding import Finding
from engine.errors import BatchError, RefusedError
from engine.model.kinds.exact import exact
from engine.model.kinds.exchanged import begin
from engine.model.kinds.into import merged_outputs, scaled_inputs
from engine.model.kinds.kind import Kind
from engine.model.kinds.pick import picks
from engine.model.kinds.sections import cut
from engine.model.kinds.vectors import derived_vectors, raw_vectors, scaled_input, seen_by, step, vector_shapes
from engine.model.memory.tensordata import widened
from engine.model.weights.codec import own_weight

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from engine.model.fitting.part import Part
    from engine.model.kinds.kind import Shape
    from engine.model.kinds.pick import Pick
    from engine.model.memory.layout import Want
    from engine.model.sites.site import Site

_CONVOLVE: dict[int, Callable[..., Tensor]] = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


def holds(module: nn.Module) -> bool:
    return isinstance(module, _ConvNd) and not isinstance(module, _ConvTransposeNd)


def _conv(module: nn.Module) -> _ConvNd:
    if not isinstance(module, _ConvNd):
        raise TypeError(f"expected a convolution, found {type(module).__name__}")
    return module


def expects(part: Part) -> dict[str, Shape]:
    """The shapes; no factors where PEFT's A, which has no dilation, gives an output of another size."""
    conv = _conv(part.module)
    ones = (1,) * len(conv.kernel_size)
    found: dict[str, Shape] = {
        "lora_bias": (conv.out_channels,),
        "magnitude": (1, conv.out_channels, *ones),
        "l_in": (1, conv.in_channels, *ones),
        "l_out": (1, conv.out_channels, *ones),
    }
    if conv.bias is not None:
        found["bias"] = (conv.out_channels,)
    if "E" in part.tensors and conv.groups == 1:
        flat = conv.in_channels * prod(conv.kernel_size)
        return found | {"A": (part.rank, flat), "B": (conv.out_channels, part.rank), "E": (part.rank, 1)}
    if part.rank % conv.groups == 0 and not _is_dilated(conv):
        found["A"] = (part.rank, conv.in_channels, *conv.kernel_size)
        found["B"] = (conv.out_channels, part.rank // conv.groups, *ones)
    return found


def _is_dilated(conv: _ConvNd) -> bool:
    return any(step > 1 and size > 1 for step, size in zip(conv.dilation, conv.kernel_size, strict=True))


def _pads(conv: _ConvNd) -> bool:
    """Whether it sees anything beyond its input."""
    if isinstance(conv.padding, str):
        return conv.padding == "same" and any(size > 1 for size in conv.kernel_size)
    return any(conv.padding)


def shapes(module: nn.Module, want: Want) -> dict[str, Shape]:
    conv = _conv(module)
    each = -(-want.rank // conv.groups)
    factors: dict[str, Shape] = {}
    if want.rank:
        A = (conv.groups, each, conv.in_channels, *conv.kernel_size)
        factors = {"A": A, "B": (conv.out_channels, each)}
        if "E" in want.roles:
            factors |= {"stored_A": A, "E": (conv.groups, each)}
    return factors | vector_shapes(want, conv.in_channels, conv.out_channels)


def raw(part: Part, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The adapter's tensors by section."""
    conv = _conv(part.module)
    found = raw_vectors(tensors)
    if "A" in tensors:
        A = tensors["A"].reshape(conv.groups, -1, conv.in_channels, *conv.kernel_size)
        found |= {"stored_A" if "E" in tensors else "A": A, "B": tensors["B"].flatten(1)}
    return found | ({"E": tensors["E"].view(1, -1)} if "E" in tensors else {})


def derived(part: Part, sections: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = {}
    if "E" in part.tensors:
        A = sections["stored_A"]
        found["A"] = A * sections["E"].view(*A.shape[:2], *([1] * (A.dim() - 2)))
    return found | derived_vectors(part, sections, _moved_weight)


@torch.no_grad()
def _moved_weight(part: Part, sections: Mapping[str, Tensor]) -> Tensor:
    """W + s·ΔW as PEFT takes its norm: with groups, of B·A in the shape of W, which then is not the ΔW it runs."""
    W = own_weight(part.module)
    each = part.rank // _conv(part.module).groups
    A, B = (sections[name][:, :each].to(W) for name in ("A", "B"))
    return W + part.scaling * (B.reshape(-1, part.rank) @ A.reshape(part.rank, -1)).view(W.shape)


def stored(views: Mapping[str, Tensor], part: Part) -> dict[str, Tensor]:
    groups = _conv(part.module).groups
    each = part.rank // groups
    wanted = expects(part)
    found = {}
    for role in part.tensors:
        section = views["stored_A" if role == "A" and "E" in part.tensors else role]
        if role in ("A", "B", "E"):
            section = section[:, :each]
        found[role] = cut(section.reshape(wanted[role]), wanted[role])
    return found


def forward(site: Site, x: Tensor) -> Tensor:
    plan = site.switch.plan
    if plan is None:
        y: Tensor = site.original(x)
        return y
    conv = _conv(site.module)
    spatial = len(conv.kernel_size)
    if plan.whole is None and x.dim() != spatial + 2:
        raise BatchError(f"{site.path}: a batch of several adapters needs inputs with a batch, found {x.dim()}-D")
    with exact(x.device):
        steps = picks(site, plan, x, -1 - spatial)
    begun = begin(site, scaled_input(x, steps), steps)
    with exact(x.device):
        out, bias = begun.y, begun.bias
        wide_x = x.to(site.dtype)
        for place, pick in enumerate(steps):
            added = _low_rank(conv, seen_by(x, wide_x, steps, place), pick)
            out, bias = step(out, added, pick, bias, moved=begun.exchanged)
    return out.to(begun.dtype)


def _low_rank(conv: _ConvNd, x: Tensor, pick: Pick) -> Tensor | None:
    """scale·B(A(x)) in the shape of the output; None where no adapter has factors here."""
    if "B" not in pick.sections:
        return None
    convolve = _CONVOLVE[len(conv.kernel_size)]
    like_base: dict[str, Any] = {"stride": conv.stride, "padding": conv.padding, "dilation": conv.dilation}
    A, B = pick.of("A"), pick.of("B")
    if pick.index is None:
        h = convolve(x, A.flatten(0, 1), **like_base)
        return convolve(h, B.view(*B.shape, *([1] * len(conv.kernel_size))), groups=conv.groups) * pick.scale
    rows, groups, each = A.shape[:3]
    # each row is a group of one convolution over all rows' channels
    h = convolve(x.reshape(1, -1, *x.shape[2:]), A.flatten(0, 2), groups=rows, **like_base)
    size = h.shape[2:]
    h = h.view(rows * groups, each, -1)
    y = torch.bmm(B.reshape(rows * groups, -1, each), h).view(rows, conv.out_channels, *size)
    return y * pick.number(pick.scale, y)


def merged(
    site: Site, values: Mapping[str, Tensor], views: Mapping[str, Tensor], part: Part, factor: float
) -> dict[str, Tensor]:
    conv = _conv(site.module)
    D = _delta(conv, views, part) * (part.scaling * factor) if "B" in part.tensors else None
    found = merged_outputs(values, views, part, factor, D)
    if "l_in" in part.tensors:
        found["weight"] = scaled_inputs(values["weight"], views, factor, conv.groups)
    return found


def _delta(conv: _ConvNd, views: Mapping[str, Tensor], part: Part) -> Tensor:
    """B·A (out, in, *kernel). Raises RefusedError where no weight of the base's computes what A and B do."""
    reason = None
    if conv.groups > 1:
        reason = f"ΔW crosses the {conv.groups} groups of the convolution"
    elif conv.padding_mode != "zeros" and _pads(conv):
        reason = f"the base pads with {conv.padding_mode} values and A with zeros"
    if reason:
        message = f"{part.path}: {reason}, so that no merged weight does the same; leave the adapter unmerged"
        raise RefusedError([Finding("merge-convolution", "error", message, where=part.path)])
    A, B = widened(views["A"][0, : part.rank]), widened(views["B"][:, : part.rank])
    return (B @ A.flatten(1)).view(conv.out_channels, *A.shape[1:])


CONV = Kind("conv", holds, shapes, raw, stored, forward, merged, expects=expects, derived=derived)
