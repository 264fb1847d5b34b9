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

    `order` (tokens in runs,) int64 sorts the tokens by slot; None: the runs lie in the tokens' own order, those of
    slot 0 between them. Tokens of slot 0 are in no run: they get nothing.
    """

    bounds: tuple[tuple[int, int, int], ...]
    order: Tensor | None


@dataclass(frozen=True, slots=True)
class Padded:
    """The slots `low` to `high` - 1 lie side by side, and each is given `width` places for tokens, so that no weight is
    copied and only tokens move.

    `take` (slots·width,) int64 says which token stands in a place, any token where the place is empty. `give` says in
    which place the result of a token stands, `to` which tokens these are; None for `give`: every place is a token,
    in the order of `take`; None for `to`: all tokens, one after the other. What an empty place holds is never given.
    """

    low: int
    high: int
    width: int
    take: Tensor
    give: Tensor | None
    to: Tensor | None


@dataclass(frozen=True, slots=True)
class Gather:
    """Each row has its slot: `slots` (rows,) int64; the tokens are rows times `per_row`, row by row.

    The only plan whose slots are numbers in a tensor: compiled code runs every batch of one size through it.
    """

    slots: Tensor
    per_row: int


Plan = Whole | Segments | Padded | Gather
