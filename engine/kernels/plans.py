"""How the tokens of one call are divided among slots: frozen values that every operation takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Whole:
    """Every token goes through the same slots, one after the other, each times its factor."""

    slots: tuple[int, ...]
    factors: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Segments:
    """Tokens in runs of one slot each: `bounds` are (slot, start, stop) of the tokens in the order `order`.

    `order` (tokens,) int64 sorts the tokens by slot, None where they lie in that order already. Tokens of slot 0 are in
    no run: they get nothing.
    """

    bounds: tuple[tuple[int, int, int], ...]
    order: Tensor | None


@dataclass(frozen=True, slots=True)
class Gather:
    """Each row has its slot: `slots` (rows,) int64; the tokens are rows times `per_row`, row by row."""

    slots: Tensor
    per_row: int


Plan = Whole | Segments | Gather
