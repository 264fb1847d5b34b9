"""What is told of a base model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BaseInfo:
    """A base model; `created`: `base add` met it for the first time, `norms`: so many weights have a known norm."""

    names: tuple[str, ...]
    fingerprint: str | None
    layout: str
    architecture: str | None
    model_type: str | None
    dtype: str | None
    quantization: str | None
    tensors: int
    parameters: int
    revision: str | None
    adapters: int
    created: bool = False
    notes: tuple[str, ...] = ()
    norms: int = 0
