"""What an adapter has beside factors, one number per output or input: LoRA biases, own biases, DoRA, IA3.

Written so that it is exactly nothing in slot 0: a difference of 0 is added, a gain of 0, a scale of 1 multiplied.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from engine.model.kinds.pick import spread
from engine.model.memory.tensordata import wide, widened
from engine.model.weights.codec import codec_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor, nn

    from engine.model.fitting.part import Part
    from engine.model.kinds.kind import Shape
    from engine.model.kinds.pick import Pick
    from engine.model.memory.layout import Want

SCALES = ("l_in", "l_out")
VECTORS = ("lora_bias", "bias", "magnitude", *SCALES)
_DERIVED = {"bias": "shift", "magnitude": "gain"}
"""The section that a forward uses in place of what is stored."""


def vector_shapes(want: Want, fan_in: int, fan_out: int) -> dict[str, Shape]:
    """The sections of these roles, one number per output (or input); `*_on` is 1 where an adapter has a scale."""
    found: dict[str, Shape] = {}
    for role in VECTORS:
        if role in want.roles:
            found[role] = (fan_in if role == "l_in" else fan_out,)
            if role in _DERIVED:
                found[_DERIVED[role]] = (fan_out,)
            if role in SCALES:
                found[f"{role}_on"] = (1,)
    return found


def raw_vectors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An adapter's vectors by section."""
    found: dict[str, Tensor] = {role: tensors[role].flatten() for role in VECTORS if role in tensors}
    return found | {f"{role}_on": torch.ones(1) for role in SCALES if role in tensors}


def shift(module: nn.Module, bias: Tensor) -> Tensor:
    """An adapter's own bias less the base's, float32 or float64."""
    base = codec_of(module, "bias").read(module, "bias")
    return widened(bias) - base.to(bias.device)


def gain(magnitude: Tensor, weight: Tensor) -> Tensor:
    """DoRA's m/‖W + sBA‖ - 1 per row of the `weight` W + sBA (out, …); the norm has no gradient (arXiv:2402.09353)."""
    norm: Tensor = torch.linalg.vector_norm(weight.detach().flatten(1), dim=1, dtype=torch.float64)
    grown: Tensor = magnitude.double() / norm.to(magnitude.device) - 1
    return grown.to(wide(magnitude.dtype))


def derived_vectors(
    part: Part, sections: Mapping[str, Tensor], moved_weight: Callable[[Part, Mapping[str, Tensor]], Tensor]
) -> dict[str, Tensor]:
    """An own bias as its shift, a magnitude as its gain over the rows of W + sBA, which `moved_weight` gives."""
    found = {}
    if "bias" in part.tensors:
        found["shift"] = shift(part.module, sections["bias"])
    if "magnitude" in part.tensors:
        found["gain"] = gain(sections["magnitude"], moved_weight(part, sections))
    return found


def scaled_input(x: Tensor, steps: list[Pick]) -> Tensor:
    """The input times IA3's scales, rounded once to its own dtype."""
    if "l_in" not in steps[0].sections:
        return x
    wide = x.to(steps[0].dtype)
    for pick in steps:
        wide = wide * pick.scale_of("l_in", wide, pick.axis)
    return wide.to(x.dtype)


def seen_by(x: Tensor, wide: Tensor, steps: list[Pick], place: int) -> Tensor:
    """What the low-rank term of that step sees of the input: with the scales of the steps after it, as if merged.

    `wide` is the input in the dtype of the arithmetic.
    """
    after = steps[place + 1 :]
    return scaled_input(x, after).to(wide.dtype) if after and "l_in" in after[0].sections else wide


def bias_of(module: nn.Module, y: Tensor, pick: Pick) -> Tensor | None:
    """The base's bias in a shape that spreads over the output y; None where it has none, or nothing needs it."""
    bias = getattr(module, "bias", None)
    return None if bias is None or "gain" not in pick.sections else spread(bias.to(y.dtype), y, pick.axis)


def step(
    y: Tensor, added: Tensor | None, pick: Pick, bias: Tensor | None, *, moved: bool = False
) -> tuple[Tensor, Tensor | None]:
    """One adapter's change of the output y so far, and the bias in what comes out, which DoRA leaves alone.

    `added` is its low-rank term, scaled; `moved`: y has the adapter's own bias already. In PEFT's order: DoRA's gain,
    the low-rank term, biases, IA3's scale.
    """
    sections = pick.sections
    if "gain" in sections:
        gained = pick.vector("gain", y)
        added = None if added is None else added + gained * added
        y = y + pick.taken(gained) * (y if bias is None else y - bias)
    if added is not None:
        y = y + added
    if "lora_bias" in sections:
        y = y + pick.vector("lora_bias", y) * pick.number(pick.scale, y)
    if "shift" in sections and not moved:
        change = pick.taken(pick.vector("shift", y))
        y = y + change
        bias = None if bias is None else bias + change
    if "l_out" in sections:
        y = y * pick.scale_of("l_out", y, pick.axis)
    return y, bias
