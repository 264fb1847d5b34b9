"""Linear layers: torch's, transformers' Conv1D with its weight as (in, out), bitsandbytes' 8- and 4-bit."""

from __future__ import annotations

from collections import ChainMap
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.functional import linear

from engine.kernels.lora import add_lora
from engine.model.kinds.exact import exact
from engine.model.kinds.exchanged import begin
from engine.model.kinds.into import merged_outputs, scaled_inputs
from engine.model.kinds.kind import Kind
from engine.model.kinds.pick import picks
from engine.model.kinds.sections import cut
from engine.model.kinds.tokens import merged_rows, raw_rows, replaced_logits, row_shapes
from engine.model.kinds.vectors import derived_vectors, raw_vectors, scaled_input, seen_by, step, vector_shapes
from engine.model.memory.tensordata import widened
from engine.model.weights.codec import own_weight

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from engine.model.batches.batch import BatchPlan
    from engine.model.fitting.part import Part
    from engine.model.kinds.exchanged import Begun
    from engine.model.kinds.kind import Shape
    from engine.model.kinds.pick import Pick
    from engine.model.memory.layout import Want
    from engine.model.sites.site import Site


def is_transposed(module: nn.Module) -> bool:
    """Whether the module is transformers' Conv1D, whose weight is (in, out)."""
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


def holds(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or is_transposed(module)


def widths(module: nn.Module) -> tuple[int, int]:
    """(in, out) of the layer; packed weights do not tell, the module does."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    fan_in, fan_out = module.weight.shape  # type: ignore[misc]  # a Conv1D's weight is a tensor
    return int(fan_in), int(fan_out)


def expects(part: Part) -> dict[str, Shape]:
    fan_in, fan_out = widths(part.module)
    found: dict[str, Shape] = {
        "A": (part.rank, fan_in),
        "B": (fan_out, part.rank),
        "E": (part.rank, 1),
        "lora_bias": (fan_out,),
        "magnitude": (fan_out,),
        "l_in": (1, fan_in),
        "l_out": (fan_out, 1),
        "rows": (len(part.tokens), fan_in),
    }
    return found | ({"bias": (fan_out,)} if getattr(part.module, "bias", None) is not None else {})


def shapes(module: nn.Module, want: Want) -> dict[str, Shape]:
    fan_in, fan_out = widths(module)
    factors: dict[str, Shape] = {"A": (want.rank, fan_in), "B": (fan_out, want.rank)} if want.rank else {}
    if "E" in want.roles:
        factors |= {"stored_A": (want.rank, fan_in), "E": (want.rank, 1)}
    return factors | vector_shapes(want, fan_in, fan_out) | row_shapes(want, fan_in)


def raw(part: Part, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The adapter's tensors by section."""
    if tensors.keys() == {"A", "B"}:
        return dict(tensors)
    found = raw_vectors(tensors) | raw_rows(part, tensors)
    if "A" in tensors:
        found |= {"stored_A" if "E" in tensors else "A": tensors["A"], "B": tensors["B"]}
    return found | ({"E": tensors["E"]} if "E" in tensors else {})


def derived(part: Part, sections: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the forward uses in place of some of these sections."""
    found = {}
    if "E" in part.tensors:
        found["A"] = sections["stored_A"] * sections["E"]
    return found | derived_vectors(part, sections, _moved_weight)


@torch.no_grad()
def _moved_weight(part: Part, sections: Mapping[str, Tensor]) -> Tensor:
    """W + s·B·A (out, in), float32, on the weight's device."""
    W = own_weight(part.module)
    A, B = (sections[name].to(W) for name in ("A", "B"))
    return torch.addmm(_own(part.module), B, A, alpha=part.scaling)


def stored(views: Mapping[str, Tensor], part: Part) -> dict[str, Tensor]:
    wanted = expects(part)
    held = {role: views["stored_A" if role == "A" and "E" in part.tensors else role] for role in part.tensors}
    return {role: cut(section, wanted[role]) for role, section in held.items()}


def forward(site: Site, x: Tensor) -> Tensor:
    plan = site.switch.plan
    if plan is None:
        y: Tensor = site.original(x)
        return y
    if not site.plain:
        return _forward_all(site, x, plan)
    y = site.original(x)
    factors = site.factors
    flat = (y if y.dtype is factors.dtype else y.to(factors.dtype)).view(-1, y.shape[-1])
    wide_x = x.reshape(-1, x.shape[-1])
    if wide_x.dtype is not factors.dtype:
        wide_x = wide_x.to(factors.dtype)
    out = flat
    with exact(x.device):
        for lane in plan.lanes:
            out = add_lora(out, wide_x, factors, lane.tokens(x, site.path))
    if y.dtype is not factors.dtype:
        return out.view_as(y).to(y.dtype)
    return y if out is flat else out.view_as(y)


def _forward_all(site: Site, x: Tensor, plan: BatchPlan) -> Tensor:
    """The forward of a module on which some adapter has more than two factors."""
    with exact(x.device):
        steps = picks(site, plan, x)
    begun = begin(site, scaled_input(x, steps), steps)
    with exact(x.device):
        wide_x = x.to(site.dtype)
        out, bias = _with_tokens(site, begun, wide_x, steps), begun.bias
        for place, pick in enumerate(steps):
            added = _low_rank(site, seen_by(x, wide_x, steps, place), pick, out)
            out, bias = step(out, added, pick, bias, moved=begun.exchanged)
    return out.to(begun.dtype)


def _with_tokens(site: Site, begun: Begun, x: Tensor, steps: list[Pick]) -> Tensor:
    """The module's result with the logits of replaced tokens."""
    y = begun.y
    if "rows" not in site.stacks:
        return y
    own: Tensor | None = site.module.bias  # type: ignore[assignment]  # of a linear layer
    bias = begun.bias if begun.exchanged or own is None else own.to(y.dtype)
    for pick in steps:
        y = replaced_logits(y, begun.y, x, pick, bias)
    return y


def _low_rank(site: Site, x: Tensor, pick: Pick, like: Tensor) -> Tensor | None:
    """scale·x·Aᵀ·Bᵀ in the shape of the output; None where no adapter has factors here."""
    if "B" not in pick.sections:
        return None
    if pick.lane is None:
        return linear(linear(x, pick.of("A")), pick.of("B")) * pick.scale
    nothing = torch.zeros(like.shape, dtype=like.dtype, device=like.device).view(-1, like.shape[-1])
    return add_lora(nothing, x.reshape(-1, x.shape[-1]), site.factors, pick.lane.tokens(x, site.path)).view_as(like)


def merged(
    site: Site, values: Mapping[str, Tensor], views: Mapping[str, Tensor], part: Part, factor: float
) -> dict[str, Tensor]:
    turned = is_transposed(site.module)
    rows = {"weight": values["weight"].t()} if turned else {}
    present = ChainMap(rows, values)  # type: ignore[arg-type]  # only read
    found = merged_rows(present, partial(_own, site.module), views, part, factor)
    D = None
    if "B" in part.tensors:
        D = part.scaling * factor * (widened(views["B"][:, : part.rank]) @ widened(views["A"][: part.rank]))
    found |= merged_outputs(ChainMap(found, present), views, part, factor, D)
    if "l_in" in part.tensors:
        found["weight"] = scaled_inputs(present["weight"], views, factor)
    return found | ({"weight": found["weight"].t()} if turned and "weight" in found else {})


def _own(module: nn.Module) -> Tensor:
    """The layer's own weight (out, in)."""
    W = own_weight(module)
    return W.t() if is_transposed(module) else W


LINEAR = Kind(
    "linear", holds, shapes, raw, stored, forward, merged, expects=expects, derived=derived, verbatim=frozenset("AB")
)
