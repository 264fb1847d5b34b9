"""Adapters in the weights: what PEFT would put there, measured, and every bit back."""

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from engine.errors import MergedError, OptionError, RefusedError
from engine.model.runtime import Runtime
from tests.engine.model.live import llama, lora_folder

IDS = torch.arange(12).reshape(2, 6)


@pytest.fixture
def model():
    return llama()


@pytest.fixture
def runtime(model, tmp_path):
    runtime = Runtime(model)
    for seed, name in enumerate("ab"):
        runtime.load(name, lora_folder(tmp_path / name, llama(), seed=seed, r=2 + seed))
    return runtime


def _state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def _same(model, state):
    now = model.state_dict()
    return now.keys() == state.keys() and all(torch.equal(now[name], tensor) for name, tensor in state.items())


def _drop_full_tables(folder):
    """PEFT writes a targeted table in full beside its factors; this adapter is to hold the factors alone."""
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file({name: tensor for name, tensor in tensors.items() if "lora_" in name}, path)


def _logits(model):
    with torch.inference_mode():
        return model(IDS).logits


def test_merged_weights_are_those_of_peft(model, runtime, tmp_path):
    oracle = PeftModel.from_pretrained(llama(), tmp_path / "a", adapter_name="a")
    oracle.load_adapter(tmp_path / "b", "b")
    oracle.base_model.merge_adapter(["a", "b"])

    runtime.merge(["a", "b"])

    for path in ("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"):
        expected = oracle.base_model.model.get_submodule(path).base_layer.weight
        torch.testing.assert_close(model.get_submodule(path).weight, expected, rtol=1e-6, atol=1e-6)


def test_a_merge_gives_what_the_adapters_gave_beside_the_weights(model, runtime):
    runtime.activate(["a", "b"])
    beside = _logits(model)

    runtime.merge(["a", "b"])

    assert runtime.merged == ("a", "b")
    torch.testing.assert_close(_logits(model), beside, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_fifty_cycles_leave_every_bit(runtime, model, dtype):
    model.to(dtype)
    before = _state(model)

    for _ in range(50):
        runtime.merge(["a", "b"], [0.3, -1.7])
        assert not _same(model, before)
        runtime.unmerge()

    assert _same(model, before)


def test_the_sum_is_rounded_once(model, runtime, tmp_path):
    model.to(torch.bfloat16)
    layer = model.get_submodule("model.layers.0.self_attn.q_proj")
    exact = layer.weight.detach().double()
    for name in "ab":
        one = PeftModel.from_pretrained(llama(), tmp_path / name).base_model.model.get_submodule(
            "model.layers.0.self_attn.q_proj"
        )
        exact = exact + one.get_delta_weight("default").detach().double()

    runtime.merge(["a", "b"])

    nearest = exact.float().to(torch.bfloat16)
    differing = (layer.weight != nearest).double().mean().item()
    assert differing < 0.002, "only where float32 sums fall on the other side of a tie"


def test_what_was_active_is_on_again_after_an_unmerge(model, runtime):
    runtime.activate("b")
    alone = _logits(model)
    runtime.merge("a")
    assert not torch.equal(_logits(model), alone)

    runtime.unmerge()

    assert torch.equal(_logits(model), alone)


@pytest.mark.parametrize(
    "call",
    [
        lambda runtime: runtime.activate("b"),
        lambda runtime: runtime.merge("b"),
        lambda runtime: runtime.unload("a"),
        lambda runtime: runtime.batch(["a", "b"]).__enter__(),
    ],
    ids=["activate", "merge", "unload", "batch"],
)
def test_what_would_mislead_is_refused_while_merged(model, runtime, call):
    runtime.merge("a")
    before = _state(model)

    with pytest.raises(MergedError, match=r"a merged into the weights; call unmerge\(\) first"):
        call(runtime)

    assert _same(model, before)


def test_a_weight_for_each_adapter_is_asked_for(runtime):
    with pytest.raises(OptionError, match="a weight for each of 2 adapters, found 1"):
        runtime.merge(["a", "b"], [1.0])


def test_an_adapter_is_not_merged_twice(model, runtime):
    before = _state(model)

    with pytest.raises(OptionError, match="a name stands twice in a, a; give it the sum of its weights"):
        runtime.merge(["a", "a"])

    assert _same(model, before)


def test_numbers_that_do_not_fit_leave_every_weight(model, runtime):
    model.to(torch.float16)
    before = _state(model)

    with pytest.raises(RefusedError, match=r"does not fit torch.float16"):
        runtime.merge(["a", "b"], [1.0, 1e6])

    assert _same(model, before)
    assert runtime.merged == ()


def test_merge_and_unload_gives_a_plain_model(model, runtime):
    runtime.activate("a")
    beside = _logits(model)

    plain = runtime.merge_and_unload("a")

    assert plain is model
    assert not any("forward" in vars(module) for module in model.modules())
    torch.testing.assert_close(_logits(model), beside, rtol=1e-4, atol=1e-5)


def test_detach_while_merged_gives_back_the_base(model, runtime):
    before = _state(model)
    runtime.merge("a")

    runtime.detach()

    assert _same(model, before)


def test_tied_weights_are_refused_unless_they_are_parted(tmp_path):
    model = llama(tie_word_embeddings=True)
    folder = lora_folder(tmp_path / "tied", llama(tie_word_embeddings=True), target_modules=["lm_head"])
    _drop_full_tables(folder)
    runtime = Runtime(model)
    runtime.load("tied", folder)
    shared, before = model.lm_head.weight, _state(model)

    with pytest.raises(RefusedError, match=r"lm_head\.weight is also model\.embed_tokens\.weight"):
        runtime.merge("tied")
    assert _same(model, before)

    runtime.activate("tied")
    beside = _logits(model)
    runtime.merge("tied", unshare=True)
    torch.testing.assert_close(_logits(model), beside, rtol=1e-4, atol=1e-5)
    assert model.model.embed_tokens.weight is shared
    assert torch.equal(shared, before["lm_head.weight"])

    runtime.unmerge()
    assert model.lm_head.weight is shared
