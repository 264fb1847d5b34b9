"""Rows of a table that an adapter replaces for a few tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from engine.materialize.stored.numbers import floats

if TYPE_CHECKING:
    from torch import Tensor

    from engine.materialize.changes.change import Rows, Weight
    from engine.materialize.stored.place import Place


@dataclass(frozen=True, slots=True)
class Tokens:
    """`rows` (n, dim) stand in place of those of `tokens`: `weight` times the way from W's own rows to them. Of a token
    that comes twice the last counts, as in PEFT.
    """

    rows: Place
    tokens: tuple[int, ...]
    weight: float

    def opened(self, _shape: tuple[int, ...], weight: Weight) -> Rows:
        rows = floats(self.rows)
        last = {token: place for place, token in enumerate(self.tokens)}
        # Of W itself: several adapters' ways from there add up, each by its weight.
        ways = {token: (rows[place] - weight(token, token + 1)[0]) * self.weight for token, place in last.items()}

        def moved(start: int, stop: int, W: Tensor) -> Tensor:
            D = torch.zeros_like(W)
            for token, way in ways.items():
                if start <= token < stop:
                    D[token - start] = way
            return D

        return moved
