"""Whether the model that the result's config describes has the layers that replication wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.compat.finding import Finding
from engine.errors import RefusedError
from engine.materialize.matching.lacking import lacking

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.materialize.matching.seats import Seats


def hold_repeated(seats: Seats) -> None:
    """Raises RefusedError where a config tells layers apart by more than lists with a place for each, such as the
    numbers of the layers without experts, so that a layer would be built that is another than the one repeated there.
    """
    if seats.frame.changed and (wrong := next(_misplaced(seats), None)):
        raise RefusedError([Finding("replication-config", "error", wrong, where="layer_replication")])


def _misplaced(seats: Seats) -> Iterator[str]:
    for name, shape, seat in lacking(seats):
        found = "no such tensor is repeated there" if seat is None else f"found {list(seat.shape)}"
        yield f"layer_replication: config.json has {name} {list(shape)} in the longer model, {found}"
