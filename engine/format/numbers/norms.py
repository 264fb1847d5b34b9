"""The Frobenius norm of ΔW = s·B·A from its factors, without forming ΔW.

‖BA‖² = tr((A·Aᵀ)(Bᵀ·B)), so two (rank, rank) matrices are enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, prod, sqrt
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from engine.format.facts import ModuleFacts
    from engine.format.files.tensors import Header, TensorInfo

    Array = NDArray[Any]

STORED = {"BF16": "<u2", "F16": "<f2", "F32": "<f4", "F64": "<f8"}
"""How the bytes of a factor are seen; a BF16 number is the upper half of an F32."""

_COLUMNS = 2**12  # elements of the long side multiplied together: they stay in the cache
_EXACT_BELOW = 2**14  # elements up to which fp64, four times the work, costs less than the call
_SAFE = (1e-20, 1e30)  # squared sizes within which fp32 neither underflows nor overflows


@dataclass(frozen=True, slots=True)
class FactorPlan:
    """How a factor is seen as `experts` matrices with `rank` short rows; experts is 1 but for 3-D parameters."""

    side: Literal["A", "B"]
    experts: int
    rank: int


def factor_plans(modules: Sequence[ModuleFacts], header: Header) -> dict[str, FactorPlan]:
    """Plans for both factors of every module whose norm they define; grouped convolutions are not among them."""
    plans: dict[str, FactorPlan] = {}
    for module in modules:
        a, b = header.tensors[module.a_key], header.tensors[module.b_key]
        shape = _common_shape(module, a, b)
        if shape is not None and a.dtype in STORED and b.dtype in STORED:
            plans[a.name] = FactorPlan("A", *shape)
            plans[b.name] = FactorPlan("B", *shape)
    return plans


def gram(plan: FactorPlan, info: TensorInfo, content: memoryview) -> NDArray[np.float64]:
    """A·Aᵀ or Bᵀ·B per expert, (experts, rank, rank), from a factor's bytes. A row with a number that is not finite has
    a square that is not.

    Large factors are multiplied in blocks in fp32 and summed in fp64 (relative error near 1e-6); small, fp64 and
    extreme ones in fp64.
    """
    import numpy as np

    stored = np.frombuffer(content, STORED[info.dtype])
    if plan.side == "A":
        short = stored.reshape(plan.experts, plan.rank, -1)  # (experts, rank, in)
    else:
        short = stored.reshape(-1, plan.rank, plan.experts).transpose(2, 1, 0)  # stored as (out, rank, experts)
    wide = info.count <= _EXACT_BELOW or info.dtype == "F64"
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        grams = _gram(short, wide=wide)
        if not wide and not all(_SAFE[0] < float(one.trace()) < _SAFE[1] for one in grams):
            grams = _gram(short, wide=True)
    return grams


def delta_norm(
    module: ModuleFacts, left: NDArray[np.float64] | None, right: NDArray[np.float64] | None
) -> float | None:
    """‖s·B·A‖_F from both factors' Gram matrices; None where one is missing or the norm is no finite number."""
    import numpy as np

    if left is None or right is None:
        return None
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        squared = float(np.einsum("eij,eij->", left, right))
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


def _gram(stored: Array, *, wide: bool) -> NDArray[np.float64]:
    """X·Xᵀ per expert of `stored` (experts, rank, long), as (experts, rank, rank)."""
    import numpy as np

    experts, rank, length = stored.shape
    grams = np.zeros((experts, rank, rank))
    scratch = np.zeros(2 * rank * min(length, _COLUMNS) if stored.dtype == np.uint16 else 0, np.uint16)
    for expert in range(experts):
        matrix = stored[expert]
        for start in range(0, length, _COLUMNS):
            # Transposed twice where the long side lies outermost in memory: the conversion then reads along it.
            block = matrix[:, start : start + _COLUMNS]
            along = block.T if block.T.flags.c_contiguous else block
            floats = as_floats(along, scratch, wide=wide)
            floats = floats if along is block else floats.T
            grams[expert] += floats @ floats.T
    return grams


def as_floats(stored: Array, scratch: NDArray[np.uint16], *, wide: bool) -> Array:
    """The numbers as fp32 or fp64, possibly in `scratch` or `stored` itself.

    `scratch` has two places a number; its even halves are and stay zero.
    """
    import numpy as np

    if stored.dtype == np.uint16:
        halves = scratch[: 2 * stored.size].reshape(*stored.shape, 2)
        halves[..., 1] = stored
        stored = halves.view(np.float32)[..., 0]
    return stored.astype(np.float64 if wide else np.float32, copy=False)
