"""A part written into a module's own weight and bias: what every kind with outputs does alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.compat.finding import Finding
from engine.errors import RefusedError
from engine.model.memory.tensordata import widened

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from engine.model.fitting.part import Part


def merged_outputs(
    values: Mapping[str, Tensor], views: Mapping[str, Tensor], part: Part, factor: float, D: Tensor | None
) -> dict[str, Tensor]:
    """The weight (out, …) and bias that have the part `factor` times in them; `D` is scaled ΔW of its factors.

    `values` are the present ones, the weight in that orientation too. The same order as in a forward: DoRA's gain, ΔW,
    biases, IA3. Raises RefusedError where a bias is to be added and the module has none.
    """
    found: dict[str, Tensor] = {}
    if D is not None:
        W = values["weight"]
        if "magnitude" in part.tensors:
            gain = _along(widened(views["gain"]), W)
            W, D = W + factor * gain * W, D + gain * D
        found["weight"] = W + D
    if "bias" in part.tensors:
        found["bias"] = _bias(values, part) + factor * widened(views["shift"])
    if "lora_bias" in part.tensors:
        bias = found["bias"] if "bias" in found else _bias(values, part)
        found["bias"] = bias + part.scaling * factor * widened(views["lora_bias"])
    if "l_out" in part.tensors:
        scale = _share(views["l_out"], factor)
        found["weight"] = _along(scale, values["weight"]) * values["weight"]
        if "bias" in values:
            found["bias"] = values["bias"] * scale
    return found


def scaled_inputs(W: Tensor, views: Mapping[str, Tensor], factor: float, groups: int = 1) -> Tensor:
    """A weight (out, in / groups, …) whose inputs IA3 scales."""
    scale = _share(views["l_in"], factor).view(groups, 1, -1)
    grouped = W.view(groups, W.shape[0] // groups, W.shape[1], -1)
    return (grouped * scale[..., None]).view_as(W)


def _share(scale: Tensor, factor: float) -> Tensor:
    return widened(scale) * factor + (1.0 - factor)


def _along(vector: Tensor, W: Tensor) -> Tensor:
    return vector.view(-1, *([1] * (W.dim() - 1)))


def _bias(values: Mapping[str, Tensor], part: Part) -> Tensor:
    if "bias" not in values:
        message = f"{part.path}: the adapter adds a bias and the module has none; leave the adapter unmerged"
        raise RefusedError([Finding("merge-bias", "error", message, where=part.path)])
    return values["bias"]
