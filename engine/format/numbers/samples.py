"""Which elements of a large matrix are looked at: rows and columns spread evenly, the same ones every time."""

from __future__ import annotations

MOST = 65_536
"""Elements looked at in one matrix; a matrix with no more is looked at whole."""

_SIDE = 256


def places(rows: int, columns: int) -> tuple[list[int], list[int]]:
    """The rows and the columns of a (rows, columns) matrix whose crossings are the sample.

    256 of each where there are that many, else all of the shorter side and more of the longer; never more than `MOST`
    crossings.
    """
    tall = min(rows, max(_SIDE, MOST // columns))
    return _spread(rows, tall), _spread(columns, min(columns, MOST // tall))


def _spread(length: int, count: int) -> list[int]:
    """`count` of `length` places, each in the middle of its share."""
    return [(2 * index + 1) * length // (2 * count) for index in range(count)]
