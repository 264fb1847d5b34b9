"""What a rewrite for an engine returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from engine.compat.finding import Finding


@dataclass(frozen=True, slots=True)
class RewriteResult:
    """An adapter rewritten for an engine, at `path` or as the version `ref`. `rewrites` are the steps in order, none
    where nothing had to change; `rounded` counts tensors that hold a rounded number, `largest_change` is the largest
    relative change of one (Frobenius). `findings` are what the engine's rules, and a push, say of the result.
    """

    target: str
    rewrites: tuple[str, ...]
    rank: int | None
    rounded: int
    largest_change: float
    path: Path | None = None
    ref: str | None = None
    name: str | None = None
    version: int | None = None
    digest: str | None = None
    tensors_digest: str | None = None
    created: bool = False
    left_out: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
