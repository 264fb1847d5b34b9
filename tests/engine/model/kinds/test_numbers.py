"""How exact the results are: bfloat16 bases against float64, and bitsandbytes' layers, which run on a CPU."""

import pytest
import torch
from peft import LoraConfig, PeftModel
from torch import nn

from engine.model.runtime import Runtime
from engine.model.weights.codec import codec_of
from tests.engine.model.kinds import oracle
from tests.engine.model.kinds.cases import CASES, INPUTS


def _exact(kind, folder):
    """What float64 computes with the same numbers, bfloat16's of the base."""
    with oracle.quiet(), torch.no_grad():
        base = oracle.seeded(kind).bfloat16().double()
        model = PeftModel.from_pretrained(base, folder).eval().double()
        x = INPUTS[kind]
        return model(x.bfloat16().double() if x.is_floating_point() else x)


_PLAIN = [
    "linear",
    "linear rslora",
    "linear lora_bias",
    "linear dora",
    "linear bias lora_only",
    "linear bias all",
    "linear dora and bias",
    "conv1d bias all",
    "conv2d dora",
    "embedding",
    "embedding dora",
    "conv1d",
    "conv2d",
]


@pytest.mark.parametrize("name", [*_PLAIN, "conv3d"])
@torch.no_grad()
def test_a_bfloat16_base_is_no_further_from_float64_than_pefts(name, tmp_path):
    kind, configs = CASES[name]
    folder = oracle.saved(tmp_path / "a", oracle.seeded(kind), configs[0])
    exact = _exact(kind, folder)
    model = oracle.seeded(kind).bfloat16()
    x = INPUTS[kind].bfloat16() if INPUTS[kind].is_floating_point() else INPUTS[kind]
    peft = oracle.run(model, [folder], x).double()
    base = model(x)
    runtime = Runtime(model)
    runtime.load("a", folder)
    runtime.activate("a")
    alone = runtime(x)
    mixed = runtime(x, adapter_names=["a", "__base__", "a", "a"])

    rows = [0, 2, 3]
    assert alone.dtype == torch.bfloat16
    assert (alone.double() - exact).norm() <= (peft - exact).norm() * 1.01
    assert (mixed.double() - exact)[rows].norm() <= (peft - exact)[rows].norm() * 1.01
    assert torch.equal(mixed[1], base[1])


@pytest.mark.parametrize("name", ["linear bias all", "linear dora and bias", "conv2d dora"])
@torch.no_grad()
def test_own_biases_on_a_bfloat16_base_are_traced_as_one_graph(name, tmp_path):
    kind, configs = CASES[name]
    model = oracle.seeded(kind).bfloat16()
    x = INPUTS[kind].bfloat16()
    runtime = Runtime(model)
    runtime.load("a", oracle.saved(tmp_path / "a", oracle.seeded(kind), configs[0]))
    base = model(x)
    expected = runtime(x, adapter_names=["a", "__base__", "a", "a"])
    torch._dynamo.reset()
    runtime.seal(max_batch=4)
    compiled = torch.compile(model, backend="eager", fullgraph=True)

    with runtime.batch(["a", "__base__", "a", "a"]):
        found = compiled(x)

    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)
    assert torch.equal(found[1], base[1])


class Quantised(nn.Module):
    """Two layers of one kind of bitsandbytes'."""

    def __init__(self, layer):
        super().__init__()
        self.one = layer(64, 128)
        self.last = layer(128, 64)

    def forward(self, x):
        return self.last(torch.tanh(self.one(x)))


def _quantised(bits):
    bnb = pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    if bits == 8:
        return Quantised(lambda fan_in, fan_out: bnb.nn.Linear8bitLt(fan_in, fan_out, has_fp16_weights=False)).to("cpu")
    return Quantised(lambda fan_in, fan_out: bnb.nn.Linear4bit(fan_in, fan_out, quant_type="nf4")).to("cpu")


def _as_meant(model):
    """The same model with plain layers that hold the numbers which the quantised ones mean."""
    plain = Quantised(nn.Linear).eval()
    for name in ("one", "last"):
        layer, quantised = getattr(plain, name), getattr(model, name)
        layer.weight.copy_(codec_of(quantised, "weight").read(quantised, "weight"))
        layer.bias.copy_(quantised.bias)
    return plain


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("bits", "near"), [(8, 0.02), (4, 0.004)])
@pytest.mark.parametrize("dora", [False, True])
@torch.no_grad()
def test_bitsandbytes_layers_run_and_dora_reads_their_weights_as_they_mean_them(bits, near, dora, tmp_path):
    """`near`: what the 8- and 4-bit products of a forward themselves are away from those of the plain numbers."""
    x = torch.randn(4, 3, 64, generator=torch.Generator().manual_seed(3))
    config = LoraConfig(r=4, target_modules=["one", "last"], use_dora=dora, bias="lora_only")
    model = _quantised(bits).eval()
    plain = _as_meant(model)
    folder = oracle.saved(tmp_path / "a", plain, config)
    expected = oracle.run(plain, [folder], x)
    for _ in ("before a forward", "after one, which repacks the weights of some processors"):
        runtime = Runtime(model)
        runtime.load("a", folder)
        base = model(x)
        runtime.activate("a")
        alone = runtime(x)
        mixed = runtime(x, adapter_names=["a", "__base__", "a", "a"])
        runtime.detach()

        assert (alone - expected).norm() <= near * expected.norm()
        torch.testing.assert_close(mixed[[0, 2, 3]], alone[[0, 2, 3]], rtol=1e-5, atol=1e-5)
        assert torch.equal(mixed[1], base[1])
