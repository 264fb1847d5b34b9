"""Which weights transformers packs when it quantises a model with bitsandbytes: asked of transformers itself.

Source: transformers 5.23.0 (`integrations/bitsandbytes.py` replace_with_bnb_linear, `quantizers/base.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.compat.finding import Finding
from engine.errors import RefusedError
from engine.format.canonical import canonical_names
from engine.materialize.checkpoint import CONFIG
from engine.model.skeleton import model_from_config

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path
    from typing import Any


def linear_weights(
    path: Path, config: Mapping[str, Any], names: Iterable[str], skipped: list[str] | None = None
) -> dict[str, bool]:
    """Those of the stored `names` that are weights to pack, and whether the model has them (in, out).

    All linear layers but output layers, tied ones and those kept in float32; `skipped` modules in place of these
    defaults. The model of `config` is built on the meta device. Raises BaseError where it does not build, RefusedError
    for a weight to pack that is stored under another name or not at all.
    """
    found = _packed(model_from_config(path / CONFIG, config), skipped)
    stored = {canonical: name for name, canonical in canonical_names(names).items()}
    if missing := [name for name, (canonical, _) in found.items() if canonical not in stored]:
        raise RefusedError([_unmatched(name) for name in missing])
    return {stored[canonical]: turned for canonical, turned in found.values()}


def _packed(model: Any, skipped: list[str] | None) -> dict[str, tuple[str, bool]]:
    """Canonical path, and whether (in, out), by the model's own name of each weight."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D
    from transformers.quantizers.base import HfQuantizer
    from transformers.quantizers.quantizers_utils import should_convert_module

    kept = HfQuantizer.get_modules_to_not_convert(model, skipped, model._keep_in_fp32_modules)  # noqa: SLF001 - as its quantisers do
    names = canonical_names(name for name, _ in model.named_parameters(remove_duplicate=False))
    return {
        weight: (names[weight], isinstance(module, Conv1D))
        for name, module in model.named_modules()
        if (isinstance(module, Conv1D) or type(module) is nn.Linear) and should_convert_module(name, kept)
        for weight in [f"{name}.weight"]
    }


def _unmatched(name: str) -> Finding:
    message = (
        f"{name}: transformers would load it packed, but the base has no tensor of that name;"
        " materialise without --quantize, and quantise what transformers loads"
    )
    return Finding("quantise-unmatched", "error", message, "base", where=name)
