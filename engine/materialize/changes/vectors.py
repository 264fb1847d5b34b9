"""Vectors that an adapter adds to a bias."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.materialize.stored.numbers import floats, tensor_at
from engine.model.memory.tensordata import widened

if TYPE_CHECKING:
    from engine.materialize.changes.change import Rows, Weight
    from engine.materialize.stored.place import Place


@dataclass(frozen=True, slots=True)
class Added:
    """The vector, `factor` times."""

    vector: Place
    factor: float

    def opened(self, shape: tuple[int, ...], _weight: Weight) -> Rows:
        vector = floats(self.vector).view(shape[0], -1) * self.factor
        return lambda start, stop, _: vector[start:stop].clone()


@dataclass(frozen=True, slots=True)
class Shift:
    """The way from `base` to `copy`, a share `weight` of it: an adapter's own bias beside another's."""

    copy: Place
    base: Place
    weight: float

    def opened(self, shape: tuple[int, ...], _weight: Weight) -> Rows:
        way = (widened(tensor_at(self.copy)) - widened(tensor_at(self.base))).view(shape[0], -1) * self.weight
        return lambda start, stop, _: way[start:stop].clone()
