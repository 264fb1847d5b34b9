"""Packed weights are read as bitsandbytes itself dequantises them, whichever rows are asked for."""

import numpy as np
import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit

from engine.materialize.encodings import ENCODINGS
from tests.engine.materialize.encodings.library import eight_bits, four_bits, stored

NAME = "layer.weight"


def drawn(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))) * 0.05


def rows(weight, slices):
    with ENCODINGS[weight.encoding].reading(weight) as reader:
        return [reader.rows(start, stop).clone() for start, stop in slices]


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize(
    ("shape", "blocksize"), [((48, 64), 64), ((33, 130), 64), ((7, 6), 64), ((40, 96), 256), ((5, 33), 64)]
)
def test_rows_of_4_bits_are_codes_times_scales(tmp_path, kind, nested, shape, blocksize):
    tensors, meant = four_bits(NAME, drawn(*shape), kind=kind, nested=nested, blocksize=blocksize)
    weight = stored(tmp_path / "w", tensors)[NAME]
    assert (weight.encoding, weight.shape, weight.dtype, weight.blocksize) == (kind, shape, "F32", blocksize)
    middle = shape[0] // 2
    slices = [(0, shape[0]), (0, 1), (middle, middle + 3), (shape[0] - 1, shape[0])]
    for (start, stop), found in zip(slices, rows(weight, slices), strict=True):
        assert torch.equal(found, meant[start:stop])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_numbers_are_those_that_the_library_gives_in_that_dtype(tmp_path, dtype):
    numbers = drawn(32, 128).to(dtype)
    codes, state = quantize_4bit(numbers, quant_type="nf4", compress_statistics=True)
    tensors, _ = four_bits(NAME, numbers)
    (found,) = rows(stored(tmp_path / "w", tensors)[NAME], [(0, 32)])
    assert torch.equal(found.to(dtype), dequantize_4bit(codes, state))


@pytest.mark.parametrize("storage", [torch.bfloat16, torch.float32])
def test_codes_in_a_storage_of_another_dtype_are_the_same_bytes(tmp_path, storage):
    tensors, meant = four_bits(NAME, drawn(16, 64), storage=storage)
    (found,) = rows(stored(tmp_path / "w", tensors)[NAME], [(0, 16)])
    assert torch.equal(found, meant)


def test_rows_of_8_bits_are_those_of_the_library(tmp_path):
    numbers = drawn(20, 33)
    numbers[3] = 0
    tensors, meant = eight_bits(NAME, numbers)
    weight = stored(tmp_path / "w", tensors, "BF16")[NAME]
    assert (weight.encoding, weight.shape, weight.dtype) == ("int8", (20, 33), "BF16")
    found = rows(weight, [(0, 20), (2, 5)])
    assert torch.equal(found[0], meant)
    assert torch.equal(found[1], meant[2:5])


@pytest.mark.parametrize("pack", [four_bits, eight_bits])
def test_codes_that_other_numbers_would_get_are_counted(tmp_path, pack):
    """Turning the sign of one row's numbers gives each of them another code."""
    numbers = drawn(12, 64) + 0.5
    tensors, _ = pack(NAME, numbers)
    weight = stored(tmp_path / "w", tensors)[NAME]
    with ENCODINGS[weight.encoding].packed(weight) as reader:
        assert reader.alike(0, numbers) == 12 * 64
        numbers[5] *= -1
        assert reader.alike(0, numbers) == 11 * 64
        assert reader.alike(4, numbers[4:7]) == 2 * 64


def test_each_number_of_a_weight_has_the_code_of_its_own_byte(tmp_path):
    """Literal: with scale 2, the codes 0, 7, 8 and 15 of nf4 are -2, 0, 0.0796 times 2, and 2."""
    tensors, _ = four_bits(NAME, torch.ones(1, 4), nested=False)
    tensors[NAME] = torch.tensor([[0x07], [0x8F]], dtype=torch.uint8)
    tensors[f"{NAME}.absmax"] = torch.tensor([2.0])
    (found,) = rows(stored(tmp_path / "w", tensors)[NAME], [(0, 1)])
    np.testing.assert_allclose(found.numpy(), [[-2, 0, 2 * 0.07958029955625534, 2]], rtol=1e-7)
