"""Checkpoints whose weights are stored in a way that is not read: refused by its name, with what to do instead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.compat.finding import Finding
from engine.errors import RefusedError
from engine.materialize.stored.place import PLAIN

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from engine.materialize.stored.place import Stored

OURS = "bitsandbytes"
_DEQUANTISE = {
    "mxfp4": "Mxfp4Config",
    "fp8": "FineGrainedFP8Config",
    "compressed-tensors": "CompressedTensorsConfig",
}
"""Whose numbers transformers gives back."""
_FULL = "give the full-precision checkpoint that it was made from"
_SIGNS = {
    ".qweight": "gptq or awq",
    ".qzeros": "gptq or awq",
    ".g_idx": "gptq",
    ".weight_packed": "compressed-tensors",
    ".weight_scale_inv": "fp8",
    ".weight_scale": "fp8 or compressed-tensors",
    "_proj_blocks": "mxfp4",
    "_proj_scales": "mxfp4",
    ".codebooks": "aqlm",
    ".W_q": "hqq",
    ".SCB": "bitsandbytes, without the codes",
    ".absmax": "bitsandbytes, without a quant_state",
    ".quant_map": "bitsandbytes, without a quant_state",
}
"""What the names of the tensors beside a weight tell of the way it is stored, where config.json says nothing."""


def hold_readable(path: Path, config: Mapping[str, Any], tensors: Mapping[str, Stored]) -> None:
    """Raises RefusedError for another quantisation than bitsandbytes', stated in config.json or shown by the tensors,
    and for parts of bitsandbytes' own that belong to no weight.
    """
    method = _method(config)
    if method is not None and method != OURS:
        raise RefusedError([_finding(path, method, "config.json: quantization_config")])
    for name, stored in tensors.items():
        kind = _shown(name, stored) if stored.encoding == PLAIN else None
        if kind is not None:
            raise RefusedError([_finding(path, kind, name)])


def _shown(name: str, stored: Stored) -> str | None:
    if name.endswith(".weight") and len(stored.shape) > 1 and stored.numbers in ("I8", "U8"):
        return "whole numbers without a scale"
    return next((kind for end, kind in _SIGNS.items() if name.endswith(end)), None)


def _method(config: Mapping[str, Any]) -> str | None:
    """The method that a config states, at the top or in a part of a composite model; `bitsandbytes` by its flags."""
    for key, value in config.items():
        if not isinstance(value, dict):
            continue
        if key == "quantization_config":
            flagged = value.get("load_in_4bit") or value.get("load_in_8bit")
            stated = value.get("quant_method")
            return stated if isinstance(stated, str) else OURS if flagged else "an unnamed quantisation"
        if "model_type" in value and (found := _method(value)):
            return found
    return None


def _finding(path: Path, kind: str, where: str) -> Finding:
    config = _DEQUANTISE.get(kind)
    instead = f"load it with {config}(dequantize=True), save_pretrained it, and give that folder" if config else _FULL
    message = f"{path}: weights stored as {kind} are not read ({where}); {instead}"
    return Finding("base-encoding", "error", message, "base", where=where)
