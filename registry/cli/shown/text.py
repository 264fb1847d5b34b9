"""How values look in human output: escaped, aligned, in units a person reads."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING
from unicodedata import combining, east_asian_width

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")


def printable(text: str) -> str:
    r"""Text with every character a terminal might obey or hide written as an escape.

    That is C0, C1, DEL, newlines, bidirectional and zero-width characters, lone surrogates and unassigned code points.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def width(text: str) -> int:
    """Columns of a terminal: wide East Asian characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1 for char in text)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> Iterator[str]:
    """Aligned lines under a header; columns named in `right` hold numbers. Never truncated; cells are escaped here."""
    cells = [[printable(cell) for cell in row] for row in (header, *rows)]
    widths = [max(width(row[column]) for row in cells) for column in range(len(header))]
    to_right = [name in right for name in header]
    for row in cells:
        padded = (_pad(cell, room, right=side) for cell, room, side in zip(row, widths, to_right, strict=True))
        yield "  ".join(padded).rstrip()


def fields(pairs: Mapping[str, str | None]) -> Iterator[str]:
    """`name  value` lines with the values aligned; None is left out."""
    shown = {name: value for name, value in pairs.items() if value is not None}
    room = max((len(name) for name in shown), default=0)
    for name, value in shown.items():
        yield f"{name:<{room}}  {printable(value)}"


def size(count: int) -> str:
    """Bytes in decimal units with three figures: `982 B`, `1.23 MB`, `45.6 GB`."""
    value, unit = float(count), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{count} B" if unit == 0 else f"{value:#.3g} {_UNITS[unit]}".replace(". ", " ")


def number(value: float | None) -> str:
    """Four figures at most, `-` for nothing."""
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def percent(value: float | None) -> str:
    """A share of one as a percentage, `-` for nothing."""
    return "-" if value is None or not math.isfinite(value) else f"{100 * value:.2f} %"


def moment(at: datetime | None) -> str:
    """UTC to the second, ISO 8601."""
    return "-" if at is None else at.strftime("%Y-%m-%dT%H:%M:%SZ")


def pairs(values: Mapping[str, object]) -> str:
    """`key=value` separated by spaces."""
    return " ".join(f"{key}={number(value) if isinstance(value, float) else value}" for key, value in values.items())


def plural(count: int, noun: str) -> str:
    """`1 blob`, `2 blobs`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _pad(cell: str, room: int, *, right: bool) -> str:
    space = " " * (room - width(cell))
    return space + cell if right else cell + space
