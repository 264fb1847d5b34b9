"""Linear layers: torch's, transformers' Conv1D with its weight as (in, out), bitsandbytes' 8- and 4-bit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from engine.kernels.lora import add_lora
from engine.model.kinds.kind import Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from engine.model.kinds.kind import Shape
    from engine.model.layout import Want
    from engine.model.part import Part
    from engine.model.site import Site


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


def shapes(module: nn.Module, want: Want) -> dict[str, Shape]:
    fan_in, fan_out = widths(module)
    return {"A": (want.rank, fan_in), "B": (fan_out, want.rank)}


def fill(views: Mapping[str, Tensor], tensors: Mapping[str, Tensor], part: Part) -> None:
    views["A"][: part.rank].copy_(tensors["A"])
    views["B"][:, : part.rank].copy_(tensors["B"])


def stored(views: Mapping[str, Tensor], part: Part) -> dict[str, Tensor]:
    return {"A": views["A"][: part.rank].clone(), "B": views["B"][:, : part.rank].clone()}


def forward(site: Site, x: Tensor) -> Tensor:
    plan = site.switch.plan
    y: Tensor = site.original(x)
    if plan is None:
        return y
    factors = site.factors
    wide = y.to(factors.dtype)
    flat = add_lora(
        wide.view(-1, wide.shape[-1]),
        x.reshape(-1, x.shape[-1]).to(factors.dtype),
        factors,
        plan.tokens(x, site.path),
    )
    return flat.view_as(y).to(y.dtype)


def merged(
    site: Site, values: Mapping[str, Tensor], views: Mapping[str, Tensor], part: Part, factor: float
) -> dict[str, Tensor]:
    D = part.scaling * factor * (views["B"][:, : part.rank].float() @ views["A"][: part.rank].float())
    return {"weight": values["weight"] + (D.t() if is_transposed(site.module) else D)}


LINEAR = Kind("linear", holds, shapes, fill, stored, forward, merged)
