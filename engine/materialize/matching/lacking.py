"""What the model that a config describes has and the weights do not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.format.names.canonical import is_buffer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.materialize.matching.seat import Seat, Shape
    from engine.materialize.matching.seats import Seats


def lacking(seats: Seats) -> Iterator[tuple[str, Shape, Seat | None]]:
    """Each parameter of the model that transformers builds, with its shape, that no stored tensor becomes (None) or
    that one of another shape does; nothing for a model that it does not build.
    """
    for name, shape in ({} if seats.live is None else seats.live.shapes()).items():
        seat = seats.of(name)
        if is_buffer(name, shape) or (seat is not None and _fits(seat, shape)):
            continue
        yield name, shape, seat


def _fits(seat: Seat, shape: Shape) -> bool:
    """Packed weights are (out, in), whatever the model's own are."""
    return seat.shape == shape or (seat.packed and seat.shape == shape[::-1])
