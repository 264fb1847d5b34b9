"""What a caller wants materialised: frozen values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isfinite
from typing import TYPE_CHECKING

from engine.errors import OptionError
from engine.merge.dtypes import parse_dtype

if TYPE_CHECKING:
    from pathlib import Path

SHARD_SIZE = 5_000_000_000
"""Bytes; the default of huggingface_hub's own writer."""
ROUNDINGS = ("nearest", "stochastic")
QUANTIZED = ("nf4", "fp4", "int8")


@dataclass(frozen=True, slots=True)
class Source:
    """An adapter folder, taken `weight` times; `name` and `digest` are what reports call it."""

    path: Path
    weight: float = 1.0
    digest: str | None = None
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A standalone checkpoint of `base` with the adapters in its weights.

    `dtype` None keeps that of every tensor. `quantize` is `nf4`, `fp4` or `int8`; with `double_quantize` the scales of
    4 bits are quantised too, as QLoRA does; `lossy` takes a result in which less than 0.9 of ΔW survives. `rounding` is
    `nearest` or `stochastic`, which `seed` decides. A tensor larger than `shard_size` bytes has a file of its own.
    `base_name` is what the model card calls the base.
    """

    base: Path
    sources: tuple[Source, ...]
    dtype: str | None = None
    quantize: str | None = None
    rounding: str = "nearest"
    seed: int = 0
    shard_size: int = SHARD_SIZE
    lossy: bool = False
    base_name: str = ""
    double_quantize: bool = True


def checked(request: Request) -> Request:
    """The request with safetensors' name of its dtype. Raises OptionError for a value that names nothing known."""
    if request.rounding not in ROUNDINGS:
        raise OptionError(f"rounding {request.rounding!r}: expected one of {', '.join(ROUNDINGS)}")
    if request.quantize not in (None, *QUANTIZED):
        raise OptionError(f"quantize {request.quantize!r}: expected one of {', '.join(QUANTIZED)}")
    if request.quantize and request.rounding != "nearest":
        raise OptionError(f"rounding {request.rounding!r}: packed weights take the nearest code; leave one of them out")
    if request.shard_size < 1:
        raise OptionError(f"shard size {request.shard_size}: expected a positive number of bytes")
    for source in request.sources:
        if not isfinite(source.weight):
            raise OptionError(f"weight {source.weight} of {source.name or source.path}: expected a finite number")
    return request if request.dtype is None else replace(request, dtype=parse_dtype(request.dtype))
