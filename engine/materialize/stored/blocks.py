"""A weight by blocks of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK = 1 << 17
"""Elements of a block: half a MiB of float32, so that a block's few tensors stay in a core's cache."""


def row_blocks(rows: int, columns: int, *, multiple: int = 1) -> Iterator[tuple[int, int]]:
    """First row and the row after the last of each block, of about BLOCK elements and a `multiple` of rows at least."""
    step = max(1, BLOCK // max(columns * multiple, 1)) * multiple
    for start in range(0, rows, step):
        yield start, min(start + step, rows)
