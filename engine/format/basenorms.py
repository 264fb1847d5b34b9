"""The Frobenius norm of every weight of a base model, streamed: memory holds one block, whatever the model's size."""

from __future__ import annotations

from math import isfinite, sqrt
from typing import TYPE_CHECKING

from engine.format.base import weight_files
from engine.format.files.header import read_header
from engine.format.files.tensorfile import TensorFile
from engine.format.names.canonical import canonical_names, is_buffer
from engine.format.numbers.norms import STORED, as_floats

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from engine.format.files.tensors import TensorInfo


def base_norms(path: Path) -> dict[str, float]:
    """‖W‖ by canonical parameter path, of the weights at `path` (a file, or a folder, sharded or not).

    Reads every byte once, a block at a time; sums in fp64. Tensors that are no F64, F32, F16 or BF16, that hold NaN or
    infinities, or that are buffers have none. Raises BaseError or HeaderError.
    """
    stored: dict[str, float | None] = {}
    for file, _ in weight_files(path):
        real = file.resolve()
        header = read_header(real)
        with TensorFile(real, header) as opened:
            for info in header.tensors.values():
                if not is_buffer(info.name, info.shape):
                    stored[info.name] = _norm(opened, info)
    return _canonical(stored)


def _canonical(stored: Mapping[str, float | None]) -> dict[str, float]:
    names = canonical_names(stored)
    return {names[name]: norm for name, norm in sorted(stored.items()) if norm is not None}


def _norm(file: TensorFile, info: TensorInfo) -> float | None:
    if info.dtype not in STORED:
        return None
    import numpy as np

    total, scratch = 0.0, np.zeros(0, np.uint16)
    with np.errstate(over="ignore", invalid="ignore"):
        for block in file.blocks(info):
            numbers = np.frombuffer(block, STORED[info.dtype])
            if scratch.size < 2 * numbers.size and numbers.dtype == np.uint16:
                scratch = np.zeros(2 * numbers.size, np.uint16)
            total += _squares(numbers, scratch)
    return sqrt(total) if isfinite(total) else None


def _squares(numbers: NDArray[np.generic], scratch: NDArray[np.uint16]) -> float:
    import numpy as np

    wide = as_floats(numbers, scratch, wide=True)
    return float(np.dot(wide, wide))
