"""What 4-bit codes stand for, by definition: number i is its code's number times scale i // blocksize.

The `dequantize_4bit` of bitsandbytes 0.50.2 on a processor takes the scales of other blocks where a row is no whole
number of them, and its forward computes with what that gives. Source of the form: QLoRA (arXiv:2305.14314).
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


@cache
def table(kind: str) -> Tensor:
    """The 16 numbers that codes of `nf4` or `fp4` stand for, float32, in the order of the codes."""
    from bitsandbytes.functional import get_4bit_type

    found: Tensor = get_4bit_type(kind, device=torch.device("cpu"))  # type: ignore[no-untyped-call]  # theirs
    return found


@cache
def _pairs(kind: str, device: torch.device) -> Tensor:
    """The two numbers that each byte stands for, side by side in 8 bytes."""
    codes = table(kind)
    both = torch.stack([codes.repeat_interleave(16), codes.repeat(16)], dim=1)
    return both.view(torch.int64).flatten().to(device)


def decoded(codes: Tensor, scales: Tensor, kind: str, blocksize: int, count: int) -> Tensor:
    """`count` numbers, float32 in one dimension, from the first one of a block on.

    `codes` (uint8, flat) are two to a byte, the first in the upper half; `scales` float32, one per block from the
    first on.
    """
    found = _pairs(kind, codes.device).index_select(0, codes.int()).view(torch.float32)[:count]
    whole = count // blocksize * blocksize
    found[:whole].view(-1, blocksize).mul_(scales[: whole // blocksize, None])
    if whole < count:
        found[whole:] *= scales[whole // blocksize]
    return found


def nested_scales(codes: Tensor, table: Tensor, outer: Tensor, blocksize: int, average: Tensor) -> Tensor:
    """Scales that are codes themselves (uint8, flat): their number in `table` times one of `outer`, plus `average`."""
    each = outer.repeat_interleave(blocksize)[: len(codes)]
    return table[codes.int()] * each + average
