"""Arithmetic of adapters in their own dtype, also where autocast rounds the model's."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

_AS_IT_IS = nullcontext()


def exact(device: torch.device) -> AbstractContextManager[object]:
    """Within, what is computed on the device keeps the dtypes of its tensors."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return _AS_IT_IS
