"""What lies beside 4-bit codes: scales, nested or not, the tables, and the text that tells of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import torch

from engine.materialize.stored.numbers import tensor_at
from engine.materialize.stored.packed import NESTED_BLOCK, STATE, four_bit_parts, quant_state
from engine.model.memory.tensordata import DTYPES
from engine.model.weights.fourbit import nested_scales, table

if TYPE_CHECKING:
    from torch import Tensor

    from engine.materialize.stored.place import Stored

_LONGEST = "1.1754943508222875e-38"
"""No average of scales, float32 and at least 0, is written longer."""


def parts(stored: Stored, *, nested: bool) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Role → dtype and shape of the tensors that are to hold such a weight; `stored` needs to have none yet.

    The average of nested scales is known last: its text has room for the longest, and spaces behind it.
    """
    room = len(_text(stored, 0.0)) - len("0.0") + len(_LONGEST) if nested else len(_text(stored, None))
    return {
        **four_bit_parts(stored.shape, stored.blocksize, nested=nested),
        STATE + stored.encoding: ("U8", (room,)),
    }


def scales_of(stored: Stored) -> Tensor:
    """One float32 scale per block, in one dimension."""
    scales = tensor_at(stored.parts["absmax"])
    if "nested_absmax" not in stored.parts:
        return scales
    average = quant_state(stored.parts[STATE + stored.encoding])["nested_offset"]
    outer, code = (tensor_at(stored.parts[role]) for role in ("nested_absmax", "nested_quant_map"))
    return nested_scales(scales, code, outer, NESTED_BLOCK, torch.tensor(average))


def beside(stored: Stored, scales: Tensor) -> dict[str, Tensor]:
    """All parts but the codes, by role.

    The average is that of one thread, as the pool works: the order of a sum is part of it.
    """
    found = {"quant_map": table(stored.encoding)}
    average = None
    if "nested_absmax" in stored.parts:
        from bitsandbytes.functional import quantize_blockwise

        average = scales.mean()
        scales, outer = quantize_blockwise(scales - average, blocksize=NESTED_BLOCK)
        found |= {"nested_absmax": outer.absmax, "nested_quant_map": outer.code}
    role = STATE + stored.encoding
    text = _text(stored, None if average is None else average.item()).ljust(stored.parts[role].size)
    return {**found, "absmax": scales, role: torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)}


def _text(stored: Stored, average: float | None) -> str:
    """The quant_state, as bitsandbytes writes it."""
    state: dict[str, object] = {
        "quant_type": stored.encoding,
        "blocksize": stored.blocksize,
        "dtype": str(DTYPES[stored.dtype]).removeprefix("torch."),
        "shape": stored.shape,
    }
    if average is not None:
        state |= {"nested_blocksize": NESTED_BLOCK, "nested_dtype": "float32", "nested_offset": average}
    return json.dumps(state)
