"""A layer's weight read as numbers and written again, whatever it is stored as: plain, 8-bit or 4-bit.

bitsandbytes repacks a 4-bit weight at its first forward on some processors and moves an 8-bit weight's scales from the
parameter to the layer's state: both forms are read here. Sources: LLM.int8() (arXiv:2208.07339), QLoRA
(arXiv:2305.14314), bitsandbytes 0.50.2 (`nn/modules.py`, `functional.py`).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from engine.model.memory.places import resident
from engine.model.memory.tensordata import wide
from engine.model.weights.fourbit import decoded, nested_scales

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

_LARGEST_HALF = 65504.0


@dataclass(frozen=True, slots=True)
class Codec:
    """How the parameter `name` of a layer is stored.

    `read(layer, name)`: its numbers, float32 (float64 of a parameter that is), in the shape in which the layer means
    them. `write(layer, name, W)`: store W with one rounding. `keep(layer, name)`: everything that `restore(layer, name,
    kept)` needs to bring back the same bits. `grid` says whether the numbers it can hold are few: quantised.
    """

    name: str
    grid: bool
    read: Callable[[nn.Module, str], Tensor]
    write: Callable[[nn.Module, str, Tensor], None]
    keep: Callable[[nn.Module, str], Any]
    restore: Callable[[nn.Module, str, Any], None]


def codec_of(layer: nn.Module, name: str) -> Codec:
    """The codec of a layer's parameter. Imports no bitsandbytes: its types are known by name."""
    return _CODECS.get(type(getattr(layer, name)).__name__, PLAIN)


def own_weight(layer: nn.Module) -> Tensor:
    """The numbers of a layer's weight, as it is now."""
    return codec_of(layer, "weight").read(layer, "weight")


def _read_plain(layer: nn.Module, name: str) -> Tensor:
    W = resident(layer, name)
    return W.to(wide(W.dtype), copy=True)


def _write_plain(layer: nn.Module, name: str, W: Tensor) -> None:
    getattr(layer, name).data.copy_(W)


def _keep_plain(layer: nn.Module, name: str) -> Tensor:
    W: Tensor = getattr(layer, name).detach()
    return W.to("cpu", copy=True)


def _holder(layer: nn.Module, weight: Any) -> Any:
    """Who has an 8-bit weight's row scales: the weight before the first forward, the layer's state after it."""
    return weight if weight.SCB is not None else layer.state


def _read_int8(layer: nn.Module, name: str) -> Tensor:
    weight = getattr(layer, name)
    holder = _holder(layer, weight)
    if holder.SCB is None:  # not quantised yet: it still holds full numbers
        return _read_plain(layer, name)
    W: Tensor = weight.data.float() * (holder.SCB.float() / 127.0)[:, None]
    return W


def _write_int8(layer: nn.Module, name: str, W: Tensor) -> None:
    from bitsandbytes.functional import int8_vectorwise_quant

    weight = getattr(layer, name)
    if W.abs().max() > _LARGEST_HALF:
        raise OverflowError(f"holds numbers above {_LARGEST_HALF:.0f}, which 8-bit weights cannot take")
    codes, scales, _ = int8_vectorwise_quant(W.to(torch.float16))
    holder = _holder(layer, weight)
    weight.data.copy_(codes)
    if holder.CB is not None and holder.CB.data_ptr() != weight.data.data_ptr():
        holder.CB.copy_(codes)
    holder.SCB.copy_(scales)


def _keep_int8(layer: nn.Module, name: str) -> tuple[Tensor, Tensor]:
    weight = getattr(layer, name)
    holder = _holder(layer, weight)
    return weight.data.clone(), holder.SCB.clone()


def _restore_int8(layer: nn.Module, name: str, kept: tuple[Tensor, Tensor]) -> None:
    weight = getattr(layer, name)
    holder = _holder(layer, weight)
    weight.data.copy_(kept[0])
    if holder.CB is not None and holder.CB.data_ptr() != weight.data.data_ptr():
        holder.CB.copy_(kept[0])
    holder.SCB.copy_(kept[1])


def _read_4bit(layer: nn.Module, name: str) -> Tensor:
    data, state = _unpacked(getattr(layer, name))
    scales = state.absmax.float().flatten()
    if state.nested:
        outer = state.state2
        scales = nested_scales(state.absmax, outer.code, outer.absmax, outer.blocksize, state.offset)
    codes = data.contiguous().view(torch.uint8).flatten()
    return decoded(codes, scales, state.quant_type, state.blocksize, state.shape.numel()).view(state.shape)


def _unpacked(weight: Any) -> tuple[Tensor, Any]:
    """Codes and state in bitsandbytes' own order; a packed state's scales are bfloat16 and lie transposed."""
    state = copy.copy(weight.quant_state)
    if not getattr(state, "packing_format_for_cpu", False):
        return weight.data, state
    from bitsandbytes.functional import _convert_weight_packed_for_cpu_inverse as unpack

    scales = state.absmax.T.reshape(-1).float()
    data, state = unpack(weight.data, state)
    state.absmax, state.nested = scales, False  # where scales were quantised, the inverse rounds them a second time
    return data, state


def _write_4bit(layer: nn.Module, name: str, W: Tensor) -> None:
    from bitsandbytes.functional import quantize_4bit

    weight = getattr(layer, name)
    old = weight.quant_state
    packed = getattr(old, "packing_format_for_cpu", False)
    data, state = quantize_4bit(
        W.contiguous(),
        blocksize=old.blocksize,
        compress_statistics=weight.compress_statistics,
        quant_type=old.quant_type,
        quant_storage=weight.quant_storage,
    )
    state.dtype = old.original_dtype if packed else old.dtype
    _set_4bit(layer, name, data, state)


def _set_4bit(layer: nn.Module, name: str, data: Tensor, state: Any) -> None:
    weight = getattr(layer, name)
    weight.data = data
    weight.quant_state = state
    if getattr(layer, "quant_state", None) is not None:
        layer.quant_state = state


def _keep_4bit(layer: nn.Module, name: str) -> tuple[Tensor, Any]:
    weight = getattr(layer, name)
    return weight.data, weight.quant_state  # a write puts others in their place and leaves these


def _restore_4bit(layer: nn.Module, name: str, kept: tuple[Tensor, Any]) -> None:
    _set_4bit(layer, name, *kept)


PLAIN = Codec("plain", False, _read_plain, _write_plain, _keep_plain, _write_plain)
INT8 = Codec("int8", True, _read_int8, _write_int8, _keep_int8, _restore_int8)
BITS4 = Codec("4bit", True, _read_4bit, _write_4bit, _keep_4bit, _restore_4bit)

_CODECS = {"Int8Params": INT8, "Params4bit": BITS4}
