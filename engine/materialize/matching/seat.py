"""Where a parameter lies among the stored tensors of the result: frozen values."""

from __future__ import annotations

from dataclasses import dataclass

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """A stored tensor that holds a parameter, or a part of it.

    The tensor is the expert `expert` of the parameter (None: of all), of which it has `rows` (first, count; None: all),
    turned where `turned`. Or the parameter is the rows `within` of the tensor.
    """

    name: str
    expert: int | None = None
    rows: tuple[int, int] | None = None
    turned: bool = False
    within: tuple[int, int] | None = None

    @property
    def is_whole(self) -> bool:
        return self.expert is None and self.rows is None and not self.turned and self.within is None


@dataclass(frozen=True, slots=True)
class Seat:
    """A parameter of `shape`, in the tensors of its `pieces`; `packed` where those hold no plain numbers."""

    path: str
    shape: Shape
    pieces: tuple[Piece, ...]
    packed: bool = False
