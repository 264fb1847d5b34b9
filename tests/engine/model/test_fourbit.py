"""The numbers of 4- and 8-bit weights against their definition in float64, also where no row is whole blocks.

bitsandbytes 0.50.2's own `dequantize_4bit` is no oracle there: on a processor it takes other blocks' scales.
"""

import numpy as np
import pytest
import torch

from engine.model.runtime import Runtime
from engine.model.sites.seat import overrides
from engine.model.weights.codec import codec_of
from engine.model.weights.fourbit import decoded, nested_scales, table
from tests.engine.model.live import llama, lora_folder

bnb = pytest.importorskip("bitsandbytes")

# appendix E of arXiv:2305.14314, and the 4-bit float of bitsandbytes: sign, two bits of exponent, one of mantissa
NF4 = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]  # fmt: skip
FP4 = [0.0, 1 / 192, 2 / 3, 1.0, 1 / 3, 1 / 2, 1 / 6, 1 / 4]
TABLES = {"nf4": NF4, "fp4": FP4 + [-number for number in FP4]}
SHAPES = [(40, 96), (64, 48), (7, 6), (33, 130), (5, 33), (96, 64)]
"""Rows of one and a half blocks of 64, of less than one, of odd lengths; the last is whole blocks."""


def layer(shape, kind="nf4", *, nested=True, blocksize=64, storage=torch.uint8, dtype=torch.float32):
    """A layer whose rows differ in size by up to ten, so that another block's scale shows."""
    draw = torch.Generator().manual_seed(sum(shape))
    W = torch.randn(shape, generator=draw) * torch.linspace(0.02, 0.2, shape[0])[:, None]
    made = bnb.nn.Linear4bit(
        shape[1], shape[0], bias=False, quant_type=kind, compress_statistics=nested, quant_storage=storage
    )
    made.weight = bnb.nn.Params4bit(
        W.to(dtype), requires_grad=False, blocksize=blocksize, quant_type=kind, compress_statistics=nested,
        quant_storage=storage, module=made,
    )  # fmt: skip
    return made.to("cpu"), W.double()


def meant(made):
    """Code by code in numpy, float64."""
    state = made.weight.quant_state
    data = made.weight.data.contiguous().view(torch.uint8).numpy().ravel()
    codes = np.stack([data >> 4, data & 15], axis=1).ravel()[: state.shape.numel()]
    scales = state.absmax.numpy()
    if state.nested:
        outer = state.state2.absmax.double().numpy()
        scales = state.state2.code.double().numpy()[scales] * outer[np.arange(len(scales)) // 256] + float(state.offset)
    each = scales.astype(np.float64)[np.arange(len(codes)) // state.blocksize]
    return torch.from_numpy((np.array(TABLES[state.quant_type])[codes] * each).reshape(state.shape))


def off(found, expected):
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("kind", TABLES)
def test_the_codes_stand_for_the_numbers_of_their_papers(kind):
    torch.testing.assert_close(table(kind).double(), torch.tensor(TABLES[kind]).double(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("blocksize", [32, 64, 128, 512, 4096])
@pytest.mark.parametrize("nested", [True, False], ids=["nested", "plain"])
@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_4_bit_weight_reads_as_codes_times_scales(shape, kind, nested, blocksize):
    made, W = layer(shape, kind, nested=nested, blocksize=blocksize)
    found = codec_of(made, "weight").read(made, "weight")
    assert (found.dtype, tuple(found.shape)) == (torch.float32, shape)
    assert off(found, meant(made)) < 1e-6
    assert off(found, W) < 0.35, "4 bits of the numbers that were given"


@pytest.mark.parametrize("storage", [torch.bfloat16, torch.float16, torch.float32])
def test_codes_in_another_storage_are_the_same_bytes(storage):
    made, _ = layer((40, 96), storage=storage)
    assert made.weight.dtype is storage
    assert off(codec_of(made, "weight").read(made, "weight"), meant(made)) < 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_that_were_of_half_precision_read_as_float32(dtype):
    made, _ = layer((40, 96), dtype=dtype)
    found = codec_of(made, "weight").read(made, "weight")
    assert found.dtype is torch.float32
    assert off(found, meant(made)) < 1e-6


@pytest.mark.parametrize("nested", [True, False], ids=["nested", "plain"])
@pytest.mark.parametrize("kind", TABLES)
def test_a_forward_that_repacks_or_refuses_leaves_the_numbers(kind, nested):
    """Rows of whole blocks are repacked with scales in bfloat16; of others a processor's forward refuses to."""
    for shape, most in (((96, 64), 2**-8), ((96, 96), 1e-6), ((40, 96), 1e-6)):
        made, _ = layer(shape, kind, nested=nested)
        expected = meant(made)
        try:
            made.eval()(torch.ones(1, shape[1]))
        except (AssertionError, RuntimeError):
            assert shape != (96, 64)
        assert off(codec_of(made, "weight").read(made, "weight"), expected) < most


@pytest.mark.parametrize("nested", [True, False], ids=["nested", "plain"])
@pytest.mark.parametrize("kind", TABLES)
def test_what_is_written_is_read_again(kind, nested):
    """Numbers on the grid stay there: scales of their own blocks, however the rows lie across them."""
    made, _ = layer((40, 96), kind, nested=nested)
    codec = codec_of(made, "weight")
    wanted = torch.roll(codec.read(made, "weight").flatten(), 64 * 7).view(40, 96)
    codec.write(made, "weight", wanted)
    assert off(codec.read(made, "weight"), meant(made)) < 1e-6
    assert off(codec.read(made, "weight"), wanted.double()) < (0.02 if nested else 1e-6)


def test_scales_within_scales_by_hand():
    """Blocks of two: the first two scales are of 10, the third of 100; all have 0.5 added."""
    found = nested_scales(
        torch.tensor([0, 1, 1], dtype=torch.uint8), torch.tensor([0.0, 0.25]), torch.tensor([10.0, 100.0]), 2,
        torch.tensor(0.5),
    )  # fmt: skip
    assert found.tolist() == [0.5, 3.0, 25.5]


def test_codes_by_hand():
    """Blocks of two with the scales 2 and 10; the fifth number, alone in its block, has the scale 100."""
    codes = torch.tensor([0x0F, 0x7F, 0xF0], dtype=torch.uint8)
    assert decoded(codes, torch.tensor([2.0, 10.0, 100.0]), "nf4", 2, 5).tolist() == [-2.0, 2.0, 0.0, 10.0, 100.0]


@pytest.mark.parametrize("forward_first", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_an_8_bit_weight_reads_as_codes_times_the_scale_of_their_row(shape, forward_first):
    draw = torch.Generator().manual_seed(sum(shape))
    made = bnb.nn.Linear8bitLt(shape[1], shape[0], bias=False, has_fp16_weights=False)
    made.weight.data = torch.randn(shape, generator=draw) * torch.linspace(0.02, 0.2, shape[0])[:, None]
    made = made.to("cpu").eval()
    expected = made.weight.data.double() * (made.weight.SCB.double() / 127)[:, None]
    if forward_first:
        made(torch.ones(2, shape[1]))
        assert made.weight.SCB is None
    assert off(codec_of(made, "weight").read(made, "weight"), expected) < 1e-6


def narrow(kind):
    """A model whose rows of 96 are one and a half blocks of 64, with its projections of 4 bits, and the one that has
    the numbers which these are."""
    quantised, full = (llama(hidden_size=96, intermediate_size=160) for _ in range(2))
    for path, module in list(full.named_modules()):
        if isinstance(module, torch.nn.Linear) and path != "lm_head":
            made = bnb.nn.Linear4bit(module.in_features, module.out_features, bias=False, quant_type=kind)
            made.weight.data = module.weight.data.clone()
            parent, _, leaf = path.rpartition(".")
            setattr(quantised.get_submodule(parent), leaf, made.to("cpu"))
            module.weight.data = meant(made).float()
    return quantised.eval(), full.eval()


@pytest.mark.parametrize("kind", TABLES)
def test_doras_gains_are_those_of_the_weights_by_definition(kind, tmp_path):
    """The norms that DoRA divides by are of W + sBA: the same over codes as over the numbers that they are."""
    quantised, full = narrow(kind)
    folder = lora_folder(tmp_path / "a", full, use_dora=True)
    gains = []
    for model in (quantised, full):
        runtime = Runtime(model)
        runtime.load("a", folder)
        runtime.activate("a")
        site = next(overrides(model.get_submodule("model.layers.0.self_attn.q_proj")))
        gains.append(site.sections(1)["gain"])
    torch.testing.assert_close(*gains, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", TABLES)
def test_a_merge_into_4_bits_is_the_grid_of_the_sum(kind, tmp_path):
    """W + ΔW of the twin in full precision, put on a grid by the library and read by definition."""
    quantised, full = narrow(kind)
    folder = lora_folder(tmp_path / "a", full, lora_alpha=64)
    reports = []
    for model in (quantised, full):
        runtime = Runtime(model)
        runtime.load("a", folder)
        reports.append(runtime.merge("a", lossy=True))
    for path, report in reports[0].kept.items():
        owner = path.removesuffix(".weight")
        total, made = full.get_submodule(owner).weight.detach(), quantised.get_submodule(owner)
        grid = bnb.nn.Linear4bit(total.shape[1], total.shape[0], bias=False, quant_type=kind)
        grid.weight.data = total.clone()
        assert off(meant(made), meant(grid.to("cpu"))) < 1e-3
        assert 0.9 < report.share < 1.1
