"""Weights as bitsandbytes itself packs them, in files as transformers names their tensors."""

import torch
from bitsandbytes.functional import dequantize_blockwise, int8_vectorwise_dequant, int8_vectorwise_quant, quantize_4bit

from engine.materialize.stored.packed import packed
from tests.engine.materialize.arrays import saved


def four_bits(name, numbers, *, kind="nf4", blocksize=64, nested=True, storage=torch.uint8):
    """The tensors of a weight by name, and the numbers that they stand for, float32."""
    codes, state = quantize_4bit(
        numbers, blocksize=blocksize, quant_type=kind, compress_statistics=nested, quant_storage=storage
    )
    tensors = {name: codes} | {f"{name}.{role}": part for role, part in state.as_dict(packed=True).items()}
    return tensors, _meant(codes, state)


def _meant(codes, state):
    """By definition: number i is its code's number times scale i // blocksize.

    bitsandbytes 0.50.2 on a processor with AVX-512 takes the wrong scale for some numbers where a row is no whole number
    of blocks (shape (40, 96), block 64), so that it is no oracle for these.
    """
    scales = state.absmax
    if state.nested:
        scales = dequantize_blockwise(scales, state.state2) + state.offset
    count = state.shape.numel()
    codes = codes.flatten().view(torch.uint8)
    separate = torch.stack([codes >> 4, codes & 15], dim=1).flatten()[:count].long()
    return (state.code[separate] * scales.repeat_interleave(state.blocksize)[:count]).view(state.shape)


def eight_bits(name, numbers):
    """As `four_bits`."""
    codes, scales, _ = int8_vectorwise_quant(numbers.half())
    module = name.removesuffix("weight")
    tensors = {name: codes, f"{module}SCB": scales, f"{module}weight_format": torch.zeros((), dtype=torch.uint8)}
    return tensors, int8_vectorwise_dequant(codes, scales)


def stored(file, tensors, dtype="F16"):
    """Every weight of a new file, by name."""
    return packed(saved(file, tensors), dtype)
