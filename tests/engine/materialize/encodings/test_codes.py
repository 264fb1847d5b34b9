"""4-bit codes and scales are, byte for byte, those that bitsandbytes computes."""

import numpy as np
import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit

from engine.materialize.encodings.codes import alike, coded
from engine.model.weights.fourbit import decoded, table


def theirs(numbers, blocksize, kind):
    codes, state = quantize_4bit(numbers, blocksize=blocksize, quant_type=kind)
    return codes.flatten().numpy(), state.absmax


def drawn(name, count):
    random = torch.Generator().manual_seed(count)
    numbers = torch.randn(count, generator=random) * 0.02
    if name == "bf16":
        return numbers.bfloat16().float()
    if name == "heavy":
        return numbers**5 * 1e6
    if name == "holes":
        return torch.where(torch.rand(count, generator=random) < 0.5, 0.0, numbers)
    return numbers


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("blocksize", [32, 64, 256, 4096])
@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 4096, 8191, 20000])
@pytest.mark.parametrize("name", ["normal", "bf16", "heavy", "holes"])
def test_codes_and_scales_are_those_of_the_library(name, count, blocksize, kind):
    numbers = drawn(name, count)
    codes, scales = coded(numbers, blocksize, kind)
    expected_codes, expected_scales = theirs(numbers, blocksize, kind)
    np.testing.assert_array_equal(codes, expected_codes)
    assert torch.equal(scales, expected_scales)


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_numbers_on_a_bound_and_zeros_take_the_codes_of_the_library(kind):
    numbers = table(kind).sort().values
    halves = torch.cat([(numbers[1:] + numbers[:-1]) / 2, numbers, torch.zeros(33), torch.tensor([1e-45, -1e-45])])
    numbers = torch.cat([torch.ones(1), halves[:63], torch.zeros(64), torch.full((64,), 1e-40), torch.zeros(3)])
    codes, scales = coded(numbers, 64, kind)
    expected_codes, expected_scales = theirs(numbers, 64, kind)
    np.testing.assert_array_equal(codes, expected_codes)
    assert torch.equal(scales, expected_scales)


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_a_byte_stands_for_the_two_numbers_that_the_library_reads(kind):
    every = torch.arange(256, dtype=torch.uint8)
    _, state = quantize_4bit(torch.ones(512), blocksize=64, quant_type=kind)
    numbers = dequantize_4bit(every[:, None], state).flatten()
    assert torch.equal(decoded(every, state.absmax, kind, 64, 512), numbers)


def test_codes_are_compared_one_by_one_and_padding_is_not():
    first, second = np.array([0x12, 0x34, 0x56], np.uint8), np.array([0x12, 0x3F, 0xF6], np.uint8)
    assert alike(first, second, 6) == 4
    assert alike(first, second, 5) == 3
    assert alike(first, np.array([0x12, 0x34, 0x5F], np.uint8), 5) == 5
