"""Numbers of a tensor's bytes, and bytes of numbers, each rounded once to the nearest (ties to even)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.format.numbers.norms import STORED

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[Any]


def to_numbers(stored: Array, dtype: str) -> NDArray[np.float64]:
    """The numbers in an array of `dtype`, as `raw_type` sees it; exact."""
    import numpy as np

    floats = (stored.astype(np.uint32) << 16).view(np.float32) if dtype == "BF16" else stored.view(STORED[dtype])
    with np.errstate(invalid="ignore"):  # a signalling NaN
        return floats.astype(np.float64)


def to_stored(numbers: NDArray[np.float64], dtype: str) -> Array:
    """The numbers rounded to `dtype`, as `raw_type` sees it; infinite where they are too large for it."""
    import numpy as np

    with np.errstate(over="ignore", under="ignore"):
        if dtype == "BF16":
            return _upper_half(_odd(numbers))
        return numbers.astype(STORED[dtype]).view(raw_type(dtype))


def raw_type(dtype: str) -> str:
    """An unsigned integer of an element's width, little endian."""
    from engine.format.files.header import BITS

    return f"<u{BITS[dtype] // 8}"


def _odd(numbers: NDArray[np.float64]) -> NDArray[np.uint32]:
    """The bits of float32, rounded to odd: towards zero, with the last bit set where that changed the number.

    A second rounding to fewer digits is then as good as one from the start.
    """
    import numpy as np

    near = numbers.astype(np.float32)
    bits = near.view(np.uint32).copy()
    above = np.abs(near.astype(np.float64)) > np.abs(numbers)
    bits[above] -= 1
    inexact = np.isfinite(numbers) & (bits.view(np.float32).astype(np.float64) != numbers)
    bits[inexact] |= 1
    return bits


def _upper_half(bits: NDArray[np.uint32]) -> Array:
    import numpy as np

    even = (bits >> 16) & 1
    special = (bits & 0x7F800000) == 0x7F800000
    rounded = np.where(special, bits, bits + 0x7FFF + even)
    return (rounded >> 16).astype("<u2")
