"""The floating dtypes a merge reads and writes, under safetensors' names. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Iterable

SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Bytes per element of every dtype a result can have."""

NAMES = {
    "float64": "F64",
    "fp64": "F64",
    "float32": "F32",
    "fp32": "F32",
    "float16": "F16",
    "fp16": "F16",
    "bfloat16": "BF16",
    "bf16": "BF16",
}
LONG_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def parse_dtype(text: str) -> str:
    """Safetensors' name of the dtype that a person wrote as `text`; raises OptionError where no result can have it."""
    if text.upper() in SIZES:
        return text.upper()
    try:
        return NAMES[text.lower().removeprefix("torch.")]
    except KeyError:
        raise OptionError(f"dtype {text!r}: expected one of {', '.join(sorted(NAMES))}") from None


def widest(dtypes: Iterable[str]) -> str:
    """The narrowest result dtype that holds every value of `dtypes` (all of them `READABLE`) in range and precision."""
    found = set(dtypes)
    for dtype in ("F64", "F32"):
        if dtype in found:
            return dtype
    if {"F16", "F8_E4M3", "F8_E5M2"} >= found:
        return "F16"
    return "BF16" if "F16" not in found else "F32"
