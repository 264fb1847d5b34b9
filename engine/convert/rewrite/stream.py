"""The bytes of a made tensor, in blocks: rows or columns of its parts, scaled and rounded once where they change."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Any

from engine.convert.rewrite.draft import refused
from engine.convert.rewrite.numbers import raw_type, to_numbers, to_stored
from engine.format.files.header import BITS
from engine.format.files.tensorfile import BLOCK
from engine.format.numbers.norms import STORED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from engine.convert.rewrite.draft import Made, Origin, Part
    from engine.format.files.tensorfile import TensorFile

    Array = NDArray[Any]
    Files = Mapping[Origin, TensorFile]

_ZEROS = bytes(BLOCK)
_PATTERNS = 2**16


@dataclass(slots=True)
class Rounding:
    """What rounding did to the tensors seen so far; mutable, because it is filled while they stream by.

    `tensors` is how many have a number that changed, `largest` the largest relative change of a tensor (Frobenius).
    """

    tensors: int = 0
    largest: float = 0.0


def made_blocks(name: str, made: Made, files: Files, rounding: Rounding) -> Iterator[bytes | memoryview]:
    """The tensor's bytes, at most about a MiB at a time (one row at least); each block is overwritten by the next.

    Raises RefusedError where a number is not finite after scaling, or cannot be scaled in its dtype.
    """
    if made.untouched:
        yield from files[made.parts[0].origin].blocks(made.parts[0].info)
        return
    _require_readable(name, made)
    change = _Change(name)
    yield from _by_rows(made, files, change) if made.axis == 0 else _by_columns(made, files, change)
    rounding.tensors += change.error > 0
    rounding.largest = max(rounding.largest, change.relative)


@dataclass(slots=True)
class _Change:
    """Squared error and size of one tensor, summed while it is written."""

    name: str
    error: float = 0.0
    size: float = 0.0

    @property
    def relative(self) -> float:
        return (self.error / self.size) ** 0.5 if self.size else 0.0

    def rounded(self, part: Part, stored: Array, dtype: str) -> Array:
        """`stored`, raw numbers of the part, as raw numbers of `dtype`, scaled."""
        import numpy as np

        if part.factor == 1 and part.info.dtype == dtype:
            return stored
        if BITS[part.info.dtype] == 16 and stored.size > _PATTERNS // 8:
            every = _scaled_patterns(part.info.dtype, dtype, part.factor)
            counts = np.bincount(stored.reshape(-1), minlength=_PATTERNS)
            finite = not counts[~every.finite].any()
            error, size, made = float(counts @ every.error), float(counts @ every.size), every.made[stored]
        else:
            scaled = _scaled(stored, part.info.dtype, dtype, part.factor)
            finite, made = bool(scaled.finite.all()), scaled.made
            error, size = float(scaled.error.sum()), float(scaled.size.sum())
        if not finite:
            message = f"tensor {self.name}: numbers times {part.factor:g} are not finite in {dtype}"
            raise refused("value-nonfinite", message, where=self.name)
        self.error += error
        self.size += size
        return made


@dataclass(frozen=True, slots=True)
class _Scaled:
    """Numbers scaled and rounded: as they are stored, which are finite, and for those the squared error and size."""

    made: Array
    finite: Array
    error: Array
    size: Array


def _scaled(stored: Array, source: str, dtype: str, factor: float) -> _Scaled:
    import numpy as np

    with np.errstate(over="ignore", invalid="ignore"):
        exact = to_numbers(stored, source) * factor
        made = to_stored(exact, dtype)
        found = to_numbers(made, dtype)
        finite = np.isfinite(found)
        error = np.where(finite, np.square(found - exact), 0.0)
        size = np.where(finite, np.square(exact), 0.0)
    return _Scaled(made, finite, error, size)


@lru_cache(maxsize=8)
def _scaled_patterns(source: str, dtype: str, factor: float) -> _Scaled:
    """Every number that 16 bits can hold, by its bits: looking one up is far quicker than rounding it."""
    import numpy as np

    return _scaled(np.arange(_PATTERNS, dtype=np.uint16), source, dtype, factor)


def _require_readable(name: str, made: Made) -> None:
    for part in made.parts:
        changed = part.factor != 1 or part.info.dtype != made.dtype
        if BITS[made.dtype] % 8 or (changed and not {part.info.dtype, made.dtype} <= STORED.keys()):
            raise refused("dtype", f"tensor {name}: numbers of {part.info.dtype} cannot be rewritten", where=name)


def _by_rows(made: Made, files: Files, change: _Change) -> Iterator[bytes | memoryview]:
    """Slice after slice of every part, then zeros, `made.blocks` times."""
    import numpy as np

    row = prod(made.shape[1:]) * BITS[made.dtype] // 8
    for block in range(made.blocks):
        missing = made.shape[0] // made.blocks
        for part in made.parts:
            rows = part.info.shape[0] // made.blocks
            size = part.info.size // made.blocks
            missing -= rows
            for start in range(block * size, (block + 1) * size, BLOCK):
                view = files[part.origin].part(part.info, start, min(BLOCK, (block + 1) * size - start))
                stored = np.frombuffer(view, raw_type(part.info.dtype))
                yield change.rounded(part, stored, made.dtype).data
        for start in range(0, missing * row, BLOCK):
            yield memoryview(_ZEROS)[: min(BLOCK, missing * row - start)]


def _by_columns(made: Made, files: Files, change: _Change) -> Iterator[bytes | memoryview]:
    """Rows of all parts beside each other, then zeros."""
    import numpy as np

    rows, width = made.shape[0], prod(made.shape[1:])
    step = max(1, BLOCK // max(1, width * BITS[made.dtype] // 8))
    for start in range(0, rows, step):
        count = min(step, rows - start)
        block = np.zeros((count, width), raw_type(made.dtype))
        place = 0
        for part in made.parts:
            size = part.info.size // rows
            view = files[part.origin].part(part.info, start * size, count * size)
            stored = np.frombuffer(view, raw_type(part.info.dtype)).reshape(count, -1)
            block[:, place : place + stored.shape[1]] = change.rounded(part, stored, made.dtype)
            place += stored.shape[1]
        yield block.reshape(-1).data
