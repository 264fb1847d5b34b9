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
    """`rows` (n, dim) stand in place of those of `tokens`, a share `weight` of them; of a token that comes twice the
    last counts, as in PEFT.
    """

    rows: Place
    tokens: tuple[int, ...]
    weight: float

    def opened(self, _shape: tuple[int, ...], _weight: Weight) -> Rows:
        rows = floats(self.rows)
        places = {token: place for place, token in enumerate(self.tokens)}

        def moved(start: int, stop: int, W: Tensor) -> Tensor:
            D = torch.zeros_like(W)
            for token, place in places.items():
                if start <= token < stop:
                    D[token - start] = (rows[place] - W[token - start]) * self.weight
            return D

        return moved
