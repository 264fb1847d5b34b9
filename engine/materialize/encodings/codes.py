"""Numbers as codes of 4 bits with one scale per block of them.

The arithmetic and so the bytes are those of bitsandbytes 0.50.2 on a processor (`backends/default/ops.py`), whose
search for the nearest code takes thirty times as long as counting does. Source: QLoRA (arXiv:2305.14314).
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from engine.model.weights.fourbit import table

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

_SMALLEST = 1e-38
"""What divides a block of zeros."""


def coded(numbers: Tensor, blocksize: int, kind: str) -> tuple[NDArray[np.uint8], Tensor]:
    """Codes, two in a byte with the first in the upper half, and the scales of the blocks from the first number on.

    `numbers` is float32, flat and finite; the last block may be short, and beside an odd last code is that of zero.
    """
    whole = len(numbers) // blocksize * blocksize
    blocks = numbers[:whole].view(-1, blocksize)
    scales = blocks.abs().amax(dim=1)
    scaled = (blocks * (1.0 / scales.clamp(min=_SMALLEST))[:, None]).flatten()
    if whole < len(numbers):
        rest = numbers[whole:]
        scale = rest.abs().amax().clamp(min=_SMALLEST)
        scales = torch.cat([scales, scale[None]])
        scaled = torch.cat([scaled, rest / scale])
    if len(scaled) % 2:
        scaled = torch.nn.functional.pad(scaled, (0, 1))
    codes = _nearest(scaled.clamp_(-1, 1).numpy(), kind)
    return np.bitwise_or(codes[::2] << 4, codes[1::2], dtype=np.uint8), scales


def alike(first: NDArray[np.uint8], second: NDArray[np.uint8], count: int) -> int:
    """Of the first `count` codes, how many are the same in both."""
    different = first ^ second
    upper, lower = different & 0xF0, different[: count // 2] & 0x0F
    return len(upper) - int(np.count_nonzero(upper)) + len(lower) - int(np.count_nonzero(lower))


def _nearest(scaled: NDArray[np.float32], kind: str) -> NDArray[np.uint8]:
    bounds, order = _bounds(kind)
    places = np.zeros(scaled.shape, np.uint8)
    for bound in bounds:
        places += scaled > bound
    return places if kind == "nf4" else order[places]


@cache
def _bounds(kind: str) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Half way between neighbours, where the lower is taken; and the codes by their numbers' size, as nf4's are."""
    numbers = table(kind)
    order = torch.argsort(numbers)
    middle = (numbers[order[:-1]] + numbers[order[1:]]) / 2
    return middle.numpy(), order.to(torch.uint8).numpy()
