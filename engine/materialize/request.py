"""What a caller wants materialised: frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

SHARD_SIZE = 5_000_000_000
"""Bytes; the default of huggingface_hub's own writer."""


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

    `dtype` None keeps that of every tensor. `rounding` is `nearest` or `stochastic`, which `seed` decides. `quantize`
    is `nf4` or `int8`; `lossy` takes a result in which less than 0.9 of ΔW survives. A tensor larger than `shard_size`
    bytes has a file of its own.
    """

    base: Path
    sources: tuple[Source, ...]
    dtype: str | None = None
    quantize: str | None = None
    rounding: str = "nearest"
    seed: int = 0
    shard_size: int = SHARD_SIZE
    lossy: bool = False
