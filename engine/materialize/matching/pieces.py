"""A parameter's effects on the stored tensors that hold it, where those are not the parameter itself."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from engine.materialize.changes.dora import Dora
from engine.materialize.changes.experts import Expert, Experts
from engine.materialize.changes.lowrank import LowRank
from engine.materialize.changes.scale import Scale
from engine.materialize.changes.vectors import Added

if TYPE_CHECKING:
    from engine.materialize.changes.change import Change
    from engine.materialize.matching.seat import Piece, Seat
    from engine.materialize.stored.place import Place


def change_of(change: Change, piece: Piece, seat: Seat) -> Change | None:
    """What a change of the parameter is to one of its pieces, which is `within` no other; None where that is nothing
    that can be told.
    """
    if piece.is_whole or piece.within is not None:
        return change
    if isinstance(change, Experts):
        return _expert(change, piece, seat.shape[0])
    if piece.turned or piece.expert is not None or piece.rows is None:
        return None
    return _cut(change, *piece.rows)


def copy_of(copy: Place, piece: Piece) -> Place | None:
    """The part of a parameter's copy that a piece has; None where it does not lie in one run of bytes."""
    if piece.turned:
        return None
    if piece.expert is not None:
        one = copy.rows(piece.expert, 1)
        copy = replace(one, shape=one.shape[1:])
    return copy if piece.rows is None else copy.rows(*piece.rows)


def _expert(change: Experts, piece: Piece, experts: int) -> Change | None:
    if piece.expert is None:
        return replace(change, transposed=not change.transposed) if piece.turned else None
    if piece.rows is None or change.transposed or piece.turned:
        return None
    rank = change.A.shape[0] // experts
    A, B = change.A.rows(piece.expert * rank, rank), change.B.rows(*piece.rows)
    return Expert(A, B, change.factor, piece.expert, experts)


def _cut(change: Change, first: int, count: int) -> Change | None:
    """The change of these rows alone."""
    if isinstance(change, LowRank) and not change.transposed:
        return replace(change, B=change.B.rows(first, count))
    if isinstance(change, Dora) and not change.change.transposed:
        inner = replace(change.change, B=change.change.B.rows(first, count))
        magnitude = replace(change.magnitude, shape=(_length(change.magnitude),)).rows(first, count)
        return replace(change, change=inner, magnitude=magnitude)
    if isinstance(change, Added):
        return replace(change, vector=change.vector.rows(first, count))
    if isinstance(change, Scale) and change.columns:
        return change if change.groups == 1 else None
    if isinstance(change, Scale):
        return replace(change, scale=replace(change.scale, shape=(_length(change.scale),)).rows(first, count))
    return None


def _length(place: Place) -> int:
    """Of a vector, whatever dimensions of 1 are around it."""
    return max(place.shape)
