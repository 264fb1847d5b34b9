"""Which device a module computes on, also where its weights wait elsewhere until it is called."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import torch

from engine.errors import RuntimeStateError

if TYPE_CHECKING:
    from torch import nn


def resident(module: nn.Module, name: str) -> torch.Tensor:
    """A module's tensor with its numbers, also where accelerate keeps them on the host or a disk until it is called."""
    tensor: torch.Tensor = getattr(module, name).detach()
    if tensor.is_meta:
        store = getattr(getattr(module, "_hf_hook", None), "weights_map", None)
        if store is None:
            raise RuntimeStateError(f"{type(module).__name__}.{name} has no numbers yet: it is on the meta device")
        tensor = store[name]
    return tensor


def is_offloaded(module: nn.Module) -> bool:
    """Whether the module's own tensors wait elsewhere until it is called."""
    return any(tensor.is_meta for tensor in chain(module.parameters(recurse=False), module.buffers(recurse=False)))


def device_of(module: nn.Module) -> torch.device:
    """The device of the module's input and result: accelerate's execution device where it moves weights there, else
    that of its first parameter or buffer; the CPU for a module without any.
    """
    placed = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
    if placed is not None:
        return torch.device(f"cuda:{placed}") if isinstance(placed, int) else torch.device(placed)
    first = next(chain(module.parameters(), module.buffers()), None)
    return torch.device("cpu") if first is None or first.device.type == "meta" else first.device
