"""Weights that bitsandbytes packed, put together from the tensors that hold them.

Sources: bitsandbytes 0.50.2 (`functional.py` QuantState.as_dict, `nn/modules.py` Linear8bitLt), transformers 5.23.0
(`quantizers/quantizer_bnb_*.py`: serialized_names).
"""

from __future__ import annotations

import json
import os
from math import isfinite, prod
from typing import TYPE_CHECKING, Any

from engine.errors import BaseError
from engine.format.files.header import open_regular
from engine.materialize.stored.numbers import NAMES
from engine.materialize.stored.place import Stored, part_name, plain

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.materialize.stored.place import Place

STATE = "quant_state.bitsandbytes__"
NESTED_BLOCK = 256
"""Scales that share a scale of their own: the only number that bitsandbytes writes."""
BLOCKS = frozenset({32, 64, 128, 256, 512, 1024, 2048, 4096})
FOUR_BITS = frozenset({"nf4", "fp4"})
INT8 = "int8"
_MAX_STATE = 1 << 16
_GIVEN = frozenset({"F32", "F16", "BF16"})


def packed(places: Mapping[str, Place], dtype: str) -> dict[str, Stored]:
    """Every weight of a checkpoint, in the order of its tensors; `dtype` is what 8-bit numbers were before.

    Reads the small JSON tensor of each 4-bit weight. Raises BaseError for parts that are missing or do not fit.
    """
    found: dict[str, Stored] = {}
    for name, place in places.items():
        if name.endswith(".SCB") and (weight := f"{name.removesuffix('SCB')}weight") in places:
            found[weight] = _eight_bits(weight, places, dtype)
        elif f".{STATE}" in name:
            weight, _, kind = name.partition(f".{STATE}")
            found[weight] = _four_bits(weight, kind, place, places)
    taken = {part_name(weight, role): weight for weight, stored in found.items() for role in stored.parts}
    names = dict.fromkeys(taken.get(name, name) for name in places)
    return {name: found.get(name) or plain(places[name]) for name in names}


def _eight_bits(weight: str, places: Mapping[str, Place], dtype: str) -> Stored:
    codes, scales = places[weight], places[part_name(weight, "SCB")]
    if codes.dtype != "I8" or len(codes.shape) != 2 or scales.dtype != "F32" or prod(scales.shape) != codes.shape[0]:
        raise BaseError(codes.file, f"{weight}: expected I8 (out, in) and one F32 scale per row beside it")
    parts = {"": codes, "SCB": scales}
    form = places.get(part_name(weight, "weight_format"))
    if form is not None:
        if any(_bytes(form)):
            raise BaseError(form.file, f"{weight}: 8-bit weights in a format for one GPU are not read, expected rows")
        parts["weight_format"] = form
    return Stored(INT8, codes.shape, parts, dtype=dtype)


def _four_bits(weight: str, kind: str, place: Place, places: Mapping[str, Place]) -> Stored:
    state = quant_state(place)
    shape, blocksize = state.get("shape"), state.get("blocksize")
    dtype = NAMES.get(str(state.get("dtype")))
    nested = "nested_offset" in state
    known = kind in FOUR_BITS and state.get("quant_type") == kind and dtype in _GIVEN
    if not known or type(blocksize) is not int or blocksize not in BLOCKS:
        raise BaseError(place.file, f"{weight}: no quant_state that bitsandbytes writes: {json.dumps(state)[:200]}")
    if not isinstance(shape, list) or not shape or not all(type(size) is int and size > 0 for size in shape):
        raise BaseError(place.file, f"{weight}: its quant_state has no shape: {json.dumps(state)[:200]}")
    average = state.get("nested_offset")
    if nested and (
        state.get("nested_blocksize") != NESTED_BLOCK or type(average) is not float or not isfinite(average)
    ):
        raise BaseError(place.file, f"{weight}: expected scales nested by {NESTED_BLOCK} with a number as offset")
    parts = _fitting(weight, four_bit_parts(tuple(shape), blocksize, nested=nested), places, place)
    return Stored(kind, tuple(shape), {**parts, f"{STATE}{kind}": place}, dtype=dtype or "", blocksize=blocksize)


def four_bit_parts(shape: tuple[int, ...], blocksize: int, *, nested: bool) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Role → dtype and shape of the tensors beside the quant_state, in bitsandbytes' own storage dtype."""
    count = prod(shape)
    blocks = -(-count // blocksize)
    parts: dict[str, tuple[str, tuple[int, ...]]] = {"": ("U8", (-(-count // 2), 1))}
    if nested:
        parts["absmax"] = ("U8", (blocks,))
        parts["nested_absmax"] = ("F32", (-(-blocks // NESTED_BLOCK),))
        parts["nested_quant_map"] = ("F32", (256,))
    else:
        parts["absmax"] = ("F32", (blocks,))
    return {**parts, "quant_map": ("F32", (16,))}


def _fitting(
    weight: str,
    expected: Mapping[str, tuple[str, tuple[int, ...]]],
    places: Mapping[str, Place],
    state: Place,
) -> dict[str, Place]:
    """The parts by role; of the codes only the bytes must fit, since other dtypes may hold them."""
    parts: dict[str, Place] = {}
    for role, (dtype, shape) in expected.items():
        name = part_name(weight, role)
        part = places.get(name)
        if part is None:
            raise BaseError(state.file, f"{weight}: is 4-bit, but {name} is missing")
        fits = part.size == prod(shape) if not role else (part.dtype, part.shape) == (dtype, shape)
        if not fits:
            found = f"{part.dtype} {list(part.shape)}"
            raise BaseError(part.file, f"{name}: expected {dtype} {list(shape)}, found {found}")
        parts[role] = part
    return parts


def quant_state(place: Place) -> dict[str, Any]:
    """The text beside a 4-bit weight as data. Raises BaseError."""
    if place.dtype != "U8" or place.size > _MAX_STATE:
        raise BaseError(place.file, f"a quant_state is no text of at most {_MAX_STATE} bytes")
    try:
        state = json.loads(_bytes(place))
    except ValueError as error:
        raise BaseError(place.file, f"a quant_state is no JSON: {error}") from None
    if not isinstance(state, dict):
        raise BaseError(place.file, "a quant_state is no JSON object")
    return state


def _bytes(place: Place) -> bytes:
    descriptor = open_regular(place.file)
    try:
        data = os.pread(descriptor, place.size, place.offset)
    finally:
        os.close(descriptor)
    if len(data) != place.size:
        raise BaseError(place.file, "the file became shorter after its header was read")
    return data
