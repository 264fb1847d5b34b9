"""Every tensor of a model and of the slots of its runtime, to be compared before and after; and spoilt adapters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file

if TYPE_CHECKING:
    from pathlib import Path

    from engine.model.runtime import Runtime


def state(runtime: Runtime) -> dict[str, torch.Tensor]:
    """A copy of every parameter, buffer, slot and scale, by name."""
    model = runtime.model
    found = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    arena = runtime._residence.arena
    for place, bank in enumerate(arena.banks if arena else ()):
        found |= {f"images {place}": bank.images, f"scales {place}": bank.scales}
    return {name: tensor.detach().clone() for name, tensor in found.items()}


def same_state(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    """Whether all of it has the same names and bits."""
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def with_nan(folder: Path) -> Path:
    """The adapter in the folder, one of its last tensor's numbers NaN."""
    weights = folder / "adapter_model.safetensors"
    tensors = load_file(weights)
    next(reversed(tensors.values())).view(-1)[-1] = float("nan")
    save_file(tensors, weights)
    return folder
