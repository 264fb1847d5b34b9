"""The Frobenius norm of ΔW = s·B·A from its factors, without forming ΔW.

‖BA‖² = tr((A·Aᵀ)(Bᵀ·B)), so two (rank, rank) matrices are enough.
"""

from __future__ import annotations

from math import isfinite, prod, sqrt
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from engine.format.facts import ModuleFacts
    from engine.format.tensors import TensorInfo

    Array = NDArray[Any]
    Load = Callable[[TensorInfo], memoryview]

STORED = {"BF16": "<u2", "F16": "<f2", "F32": "<f4", "F64": "<f8"}
"""How the bytes of a factor are seen; a BF16 number is the upper half of an F32."""

_COLUMNS = 2**11  # elements of the long side multiplied together: they stay in the cache
_EXACT_BELOW = 2**17  # elements up to which fp64 costs nothing that one would notice
_SAFE = (1e-20, 1e30)  # squared sizes within which fp32 neither underflows nor overflows


def delta_norm(module: ModuleFacts, a: TensorInfo, b: TensorInfo, load: Load) -> float | None:
    """‖s·B·A‖_F, None where the shapes are no plain pair of factors (grouped convolutions among them).

    `load` gives a tensor's bytes and may reuse its memory. Large factors are multiplied in blocks in fp32 and summed in
    fp64 (relative error near 1e-6), small, fp64 and extreme ones in fp64.
    """
    shape = _common_shape(module, a, b)
    if shape is None or a.dtype not in STORED or b.dtype not in STORED:
        return None
    wide = a.count + b.count <= _EXACT_BELOW or "F64" in (a.dtype, b.dtype)
    squared = _squared(shape, a, b, load, wide=wide)
    if squared is None:
        squared = _squared(shape, a, b, load, wide=True) or 0.0
    norm = abs(module.scaling) * sqrt(max(squared, 0.0))
    return norm if isfinite(norm) else None


def _common_shape(module: ModuleFacts, a: TensorInfo, b: TensorInfo) -> tuple[int, int] | None:
    """(experts, rank); experts is 1 for everything but parameters with a dimension for them."""
    if not a.shape or not b.shape or len(b.shape) < 2 or 0 in (*a.shape, *b.shape):
        return None
    rows, columns = a.shape[0], prod(b.shape[1:])
    if rows != columns:
        return None
    if module.kind != "parameter":
        return 1, rows
    rank = module.configured_rank or rows
    return None if rows % rank else (rows // rank, rank)


def _squared(shape: tuple[int, int], a: TensorInfo, b: TensorInfo, load: Load, *, wide: bool) -> float | None:
    """Σ over experts of ‖B_e·A_e‖²; None where fp32 is not enough for numbers of this size."""
    import numpy as np

    experts, rank = shape
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        left = _gram(_stored(a, load).reshape(experts, rank, -1), wide=wide)  # A is (experts, rank, in)
        # B is (out, rank, experts): its rows lie one after the other, so they are multiplied from that side.
        right = _gram(_stored(b, load).reshape(-1, rank, experts).transpose(2, 1, 0), wide=wide)
        sizes = [float(gram.trace()) for gram in (*left, *right)]
        if not wide and not all(_SAFE[0] < size < _SAFE[1] for size in sizes):
            return None
        return float(np.einsum("eij,eij->", left, right))


def _stored(info: TensorInfo, load: Load) -> Array:
    import numpy as np

    return np.frombuffer(load(info), STORED[info.dtype])


def _gram(stored: Array, *, wide: bool) -> NDArray[np.float64]:
    """X·Xᵀ per expert of `stored` (experts, rank, long), as (experts, rank, rank)."""
    import numpy as np

    experts, rank, length = stored.shape
    grams = np.zeros((experts, rank, rank))
    scratch = np.zeros(2 * rank * _COLUMNS, np.uint16)
    for expert in range(experts):
        matrix = stored[expert]
        for start in range(0, length, _COLUMNS):
            # Transposed twice where the long side lies outermost in memory: the conversion then reads along it.
            block = matrix[:, start : start + _COLUMNS]
            along = block.T if block.T.flags.c_contiguous else block
            floats = _floats(along, scratch, wide=wide)
            floats = floats if along is block else floats.T
            grams[expert] += floats @ floats.T
    return grams


def _floats(stored: Array, scratch: NDArray[np.uint16], *, wide: bool) -> Array:
    """The numbers as fp32 or fp64, possibly in `scratch`, whose even halves are and stay zero."""
    import numpy as np

    if stored.dtype == np.uint16:
        halves = scratch[: 2 * stored.size].reshape(*stored.shape, 2)
        halves[..., 1] = stored
        stored = halves.view(np.float32)[..., 0]
    return stored.astype(np.float64 if wide else np.float32, copy=False)
