"""Quantised weights are read as bitsandbytes itself computes with them, before and after a forward."""

import copy

import pytest
import torch

from engine.errors import RefusedError
from engine.model.runtime import Runtime
from engine.model.weights.codec import BITS4, INT8, PLAIN, codec_of
from tests.engine.model.live import llama, lora_folder

bnb = pytest.importorskip("bitsandbytes")

IDENTITY = torch.eye(64)


def _int8(threshold=0.0):
    layer = bnb.nn.Linear8bitLt(64, 96, bias=True, has_fp16_weights=False, threshold=threshold)
    return _quantised(layer)


def _4bit(*, quant_type="nf4", double=True, dtype=torch.float32, storage=torch.uint8):
    layer = bnb.nn.Linear4bit(
        64, 96, bias=True, quant_type=quant_type, compress_statistics=double, compute_dtype=dtype, quant_storage=storage
    )
    return _quantised(layer)


def _quantised(layer):
    """The layer with known weights, put onto its grid by the library itself."""
    generator = torch.Generator().manual_seed(3)
    layer.weight.data = torch.randn(96, 64, generator=generator) * 0.05
    layer.bias.data.zero_()
    return layer.to("cpu").eval()


LAYERS = {
    "int8": _int8,
    "nf4": _4bit,
    "nf4-plain-scales": lambda: _4bit(double=False),
    "fp4": lambda: _4bit(quant_type="fp4"),
    "nf4-bfloat16": lambda: _4bit(dtype=torch.bfloat16),
    "nf4-stored-as-bfloat16": lambda: _4bit(storage=torch.bfloat16),
}
CODECS = {"int8": INT8}


def _computed(layer):
    """The weight as the library's own forward uses it: what the identity comes out as."""
    with torch.no_grad():
        return layer(IDENTITY).T.float()


@pytest.mark.parametrize("name", LAYERS)
def test_the_codec_is_that_of_the_weight(name):
    assert codec_of(LAYERS[name](), "weight") is CODECS.get(name, BITS4)
    assert codec_of(LAYERS[name](), "bias") is PLAIN


@pytest.mark.parametrize("name", LAYERS)
def test_a_weight_reads_as_what_forward_computes_with(name):
    layer = LAYERS[name]()
    codec = codec_of(layer, "weight")

    before = codec.read(layer, "weight")
    computed = _computed(layer)
    after = codec.read(layer, "weight")

    largest = computed.abs().max().item()
    # a forward in bfloat16 rounds the weights it computes with; int8 rounds the inputs, exact for an identity
    assert (before - computed).abs().max().item() <= largest * 2**-7
    assert (after - before).abs().max().item() <= largest * 2**-8, "packing rounds block scales to bfloat16"


@pytest.mark.parametrize("forward_first", [False, True], ids=["fresh", "after-a-forward"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_written_weight_is_computed_with(name, forward_first):
    layer = LAYERS[name]()
    if forward_first:
        _computed(layer)
    stored = getattr(LAYERS[name]().weight, "quant_state", None)
    codec = codec_of(layer, "weight")
    wanted = -2.0 * codec.read(layer, "weight")

    codec.write(layer, "weight", wanted)

    assert stored is None or layer.weight.quant_state.dtype == stored.dtype
    step = wanted.abs().max().item() * (1 / 127 if name == "int8" else 0.17)  # the widest gap of a 4-bit grid
    assert (_computed(layer) - wanted).abs().max().item() <= step
    assert torch.nn.functional.cosine_similarity(_computed(layer).flatten(), wanted.flatten(), dim=0) > 0.99


@pytest.mark.parametrize("between", [False, True], ids=["at-once", "with-a-forward-between"])
@pytest.mark.parametrize("forward_first", [False, True], ids=["fresh", "after-a-forward"])
@pytest.mark.parametrize("name", LAYERS)
def test_what_was_kept_comes_back_bit_by_bit(name, forward_first, between):
    layer, twin = LAYERS[name](), LAYERS[name]()
    if forward_first:
        _computed(layer)
        _computed(twin)
    codec = codec_of(layer, "weight")
    kept = codec.keep(layer, "weight")

    codec.write(layer, "weight", 3.0 * codec.read(layer, "weight"))
    if between:
        _computed(layer)
    codec.restore(layer, "weight", kept)

    assert torch.equal(codec.read(layer, "weight"), codec.read(twin, "weight"))
    assert torch.equal(_computed(layer), _computed(twin))


def test_an_8_bit_weight_takes_no_number_above_half_precision():
    layer = _int8()

    with pytest.raises(OverflowError, match="above 65504"):
        codec_of(layer, "weight").write(layer, "weight", torch.full((96, 64), 70000.0))


def _on_grid(model, name):
    """The model with its projections quantised, as transformers does it."""
    for path, module in list(model.named_modules()):
        if isinstance(module, torch.nn.Linear) and path != "lm_head":
            parent, _, leaf = path.rpartition(".")
            made = (
                bnb.nn.Linear8bitLt(module.in_features, module.out_features, bias=False, has_fp16_weights=False)
                if name == "int8"
                else bnb.nn.Linear4bit(module.in_features, module.out_features, bias=False, quant_type="nf4")
            )
            made.weight.data = module.weight.data.clone()
            setattr(model.get_submodule(parent), leaf, made.to("cpu"))
    return model.eval()


WIDE = {"hidden_size": 64, "intermediate_size": 128}  # whole blocks of 64, as the packed form needs


def _llama():
    return llama(**WIDE)


IDS = torch.arange(12).reshape(2, 6)


def _logits(model):
    with torch.inference_mode():
        return model(IDS).logits


@pytest.mark.parametrize("name", ["int8", "nf4"])
def test_an_adapter_on_a_quantised_base_adds_to_its_output(name, tmp_path):
    folder = lora_folder(tmp_path / "a", _llama())
    full, model = _llama(), _on_grid(_llama(), name)
    codec = {path: codec_of(module, "weight") for path, module in model.named_modules() if hasattr(module, "weight")}
    for path, module in full.named_modules():  # the same base in full precision: what the grid's numbers say
        if path in codec and hasattr(module, "weight"):
            module.weight.data = codec[path].read(model.get_submodule(path), "weight")
    expected = Runtime(full)
    runtime = Runtime(model)
    for one in (expected, runtime):
        one.load("a", folder)
        one.activate("a")

    difference = (_logits(model) - _logits(full)).abs().max().item()
    effect = (_logits(full) - _logits(_on_grid(_llama(), name))).abs().max().item()

    assert difference < 0.03 * effect


def test_a_merge_onto_8_bits_reports_what_survived_and_comes_back(tmp_path):
    model = _on_grid(_llama(), "int8")
    before = _logits(model)
    runtime = Runtime(model)
    runtime.load("a", lora_folder(tmp_path / "a", _llama()))
    runtime.activate("a")
    beside = _logits(model)
    runtime.activate(None)

    report = runtime.merge("a")

    assert 0.99 < report.share < 1.01
    assert (_logits(model) - beside).abs().max() < 0.1 * (beside - before).abs().max()
    runtime.unmerge()
    assert torch.equal(_logits(model), before)


def test_a_small_update_is_lost_on_a_4_bit_grid_and_refused(tmp_path):
    model = _on_grid(_llama(), "nf4")
    runtime = Runtime(model)
    runtime.load("a", lora_folder(tmp_path / "a", _llama(), lora_alpha=0.02))
    before = _logits(model)

    with pytest.raises(RefusedError, match=r"of ΔW survives on its 4-bit grid, expected at least 90%"):
        runtime.merge("a")

    assert runtime.merged == ()
    assert torch.equal(_logits(model), before)
    report = runtime.merge("a", lossy=True)
    assert report.share < 0.5
    runtime.unmerge()
    assert torch.equal(_logits(model), before)


@pytest.mark.parametrize("name", ["int8", "nf4"])
def test_a_sum_that_overflows_is_refused_before_it_reaches_the_grid(name, tmp_path):
    model = _on_grid(_llama(), name)
    before = _logits(model)
    runtime = Runtime(model)
    runtime.load("a", lora_folder(tmp_path / "a", _llama()))

    with pytest.raises(RefusedError, match="the merged weight holds NaN or infinite numbers"):
        runtime.merge("a", [1e39], lossy=True)

    assert torch.equal(_logits(model), before)


def test_the_share_kept_is_that_of_its_definition(tmp_path):
    model = _on_grid(_llama(), "nf4")
    path = "model.layers.0.self_attn.q_proj"
    layer = model.get_submodule(path)
    runtime = Runtime(model)
    runtime.load("a", lora_folder(tmp_path / "a", _llama(), target_modules=["q_proj"]))
    W = bnb.functional.dequantize_4bit(layer.weight.data, copy.deepcopy(layer.weight.quant_state)).double()
    full = _llama()
    plain = Runtime(full)
    plain.load("a", tmp_path / "a")
    start = full.get_submodule(path).weight.detach().double()
    plain.merge("a")
    D = full.get_submodule(path).weight.detach().double() - start

    report = runtime.merge("a", lossy=True)

    arrived = bnb.functional.dequantize_4bit(layer.weight.data, copy.deepcopy(layer.weight.quant_state)).double() - W
    expected = ((arrived * D).sum() / (D * D).sum()).item()
    assert report.kept[f"{path}.weight"].share == pytest.approx(expected, rel=1e-4)
