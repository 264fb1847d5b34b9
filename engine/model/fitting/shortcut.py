"""torch's fused TransformerEncoderLayer, which reads the weights of its modules without calling them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from engine.compat.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from engine.model.fitting.part import Part

FIX = "torch.backends.mha.set_fastpath_enabled(False)"


def passed_over(parts: Sequence[Part], modules: Mapping[str, nn.Module]) -> Iterator[Finding]:
    """A finding for every part that such a layer would leave out in silence, while torch's fast path is on."""
    if not torch.backends.mha.get_fastpath_enabled():
        return
    fused = [path for path, module in modules.items() if isinstance(module, nn.TransformerEncoderLayer)]
    for part in parts if fused else ():
        layer = next((path for path in fused if part.path.startswith(f"{path}." if path else "")), None)
        if layer is not None:
            message = (
                f"{part.path}: lies in a TransformerEncoderLayer, which reads its weights past it; call {FIX} first"
            )
            yield Finding("own-shortcut", "error", message, where=part.path, fix=FIX)
