"""Which device a module computes on, also where its weights wait elsewhere until it is called."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import nn


def device_of(module: nn.Module) -> torch.device:
    """The device of the module's input and result: accelerate's execution device where it moves weights there, else
    that of its first parameter or buffer; the CPU for a module without any.
    """
    placed = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
    if placed is not None:
        return torch.device(f"cuda:{placed}") if isinstance(placed, int) else torch.device(placed)
    first = next(chain(module.parameters(), module.buffers()), None)
    return torch.device("cpu") if first is None or first.device.type == "meta" else first.device
