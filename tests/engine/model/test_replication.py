"""Layers that run several times with the same weights, against PEFT."""

import copy

import pytest
import torch
from peft import PeftModel
from transformers import BertConfig, BertModel, Gemma3ForCausalLM, Gemma3TextConfig, GPT2Config, GPT2Model

from engine.errors import RefusedError
from engine.model.runtime import Runtime
from tests.engine.model.live import llama, lora_folder

IDS = torch.arange(18).reshape(3, 6)
RANGES = [[0, 2], [1, 3], [0, 1]]
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def _three_layers():
    return llama(num_hidden_layers=3)


def _bert():
    torch.manual_seed(0)
    return BertModel(
        BertConfig(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4)
    ).eval()


def _gpt2():
    torch.manual_seed(0)
    return GPT2Model(GPT2Config(vocab_size=64, n_embd=32, n_layer=3, n_head=4)).eval()


def _gemma():
    torch.manual_seed(0)
    settings = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
    }
    return Gemma3ForCausalLM(
        Gemma3TextConfig(
            **settings, sliding_window=4, layer_types=["sliding_attention", "full_attention", "sliding_attention"]
        )
    ).eval()


FAMILIES = {
    "llama": (_three_layers, ["q_proj", "up_proj"]),
    "bert": (_bert, ["query", "dense"]),
    "gpt2": (_gpt2, ["c_attn"]),
}


def _out(model, **inputs):
    with torch.inference_mode():
        return model(IDS, use_cache=False, **inputs)[0]


@pytest.fixture
def loaded(tmp_path):
    model = _three_layers()
    folder = lora_folder(tmp_path / "a", model, layer_replication=RANGES)
    runtime = Runtime(model)
    runtime.load("a", folder)
    return runtime, folder


@pytest.mark.parametrize("family", FAMILIES)
def test_repeated_layers_give_what_peft_gives(tmp_path, family):
    make, targets = FAMILIES[family]
    model = make()
    folder = lora_folder(tmp_path / "a", model, target_modules=targets, layer_replication=RANGES)
    wrapped = PeftModel.from_pretrained(copy.deepcopy(model), folder)
    expected = _out(wrapped)
    with wrapped.disable_adapter():
        bare = _out(wrapped)
    runtime = Runtime(model)

    runtime.load("a", folder)
    runtime.activate("a")

    torch.testing.assert_close(_out(model), expected, **CLOSE)
    rows = _out(runtime, adapter_names=["a", "__base__", "a"])
    torch.testing.assert_close(rows[[0, 2]], expected[[0, 2]], **CLOSE)
    assert torch.equal(rows[1], bare[1])


def test_generation_with_a_cache_equals_generation_without(loaded):
    runtime, _ = loaded
    runtime.activate("a")

    cached = runtime.model.generate(IDS, max_new_tokens=6, do_sample=False, pad_token_id=0, use_cache=True)
    plain = runtime.model.generate(IDS, max_new_tokens=6, do_sample=False, pad_token_id=0, use_cache=False)

    assert torch.equal(cached, plain)
    assert len(runtime.model(IDS).past_key_values.layers) == 5


def test_copies_share_weights_and_know_their_place(loaded):
    runtime, _ = loaded
    layers = runtime.model.model.layers

    assert [layer.self_attn.layer_idx for layer in layers] == [0, 1, 2, 3, 4]
    assert layers[1].mlp.up_proj.weight is layers[2].mlp.up_proj.weight
    assert layers[1].mlp.up_proj is not layers[2].mlp.up_proj
    assert runtime.model.config.num_hidden_layers == 5


def test_what_a_config_says_of_each_layer_is_repeated_with_it(tmp_path):
    model = _gemma()
    folder = lora_folder(tmp_path / "a", model, layer_replication=RANGES)
    runtime = Runtime(model)

    runtime.load("a", folder)
    runtime.activate("a")

    assert model.config.layer_types == [
        "sliding_attention",
        "full_attention",
        "full_attention",
        "sliding_attention",
        "sliding_attention",
    ]
    cached = model.generate(IDS, max_new_tokens=4, do_sample=False, pad_token_id=0)
    assert torch.equal(cached, model.generate(IDS, max_new_tokens=4, do_sample=False, pad_token_id=0, use_cache=False))


@pytest.mark.parametrize("leave", [lambda runtime: runtime.detach(), lambda runtime: runtime.unload("a")])
def test_leaving_brings_the_same_layers_and_settings_back(tmp_path, leave):
    model = _three_layers()
    modules, base, settings = dict(model.named_modules()), _out(model), model.config.to_dict()
    runtime = Runtime(model)
    runtime.load("a", lora_folder(tmp_path / "a", model, layer_replication=RANGES))

    leave(runtime)

    found = dict(model.named_modules())
    assert found.keys() == modules.keys() and all(found[path] is modules[path] for path in modules)
    assert model.config.to_dict() == settings
    assert torch.equal(_out(model), base)
    assert not any("forward" in vars(module) for path, module in modules.items() if path)


@pytest.mark.parametrize("other", [None, [[0, 2], [0, 2]]])
def test_an_adapter_that_repeats_other_layers_is_refused(loaded, tmp_path, other):
    runtime, _ = loaded
    runtime.activate("a")
    before = _out(runtime.model)

    with pytest.raises(RefusedError, match=r"expected \[\[0, 2\], \[1, 3\], \[0, 1\]\] as the adapters loaded have it"):
        runtime.load("b", lora_folder(tmp_path / "b", _three_layers(), layer_replication=other))

    assert runtime.adapters == ("a",)
    assert torch.equal(_out(runtime.model), before)


def test_repeating_layers_under_a_loaded_adapter_is_refused(tmp_path):
    model = _three_layers()
    runtime = Runtime(model)
    runtime.load("a", lora_folder(tmp_path / "a", model))
    folder = lora_folder(tmp_path / "b", _three_layers(), layer_replication=RANGES)

    with pytest.raises(RefusedError, match="expected none as the adapters loaded have it"):
        runtime.load("b", folder)

    assert len(model.model.layers) == 3
    runtime.unload("a")
    runtime.load("b", folder)
    assert len(model.model.layers) == 5


def test_ranges_beyond_the_model_are_all_named(tmp_path):
    folder = lora_folder(tmp_path / "a", llama(num_hidden_layers=9), layer_replication=[[0, 4], [1, 3], [5, 9]])
    model = _three_layers()

    with pytest.raises(RefusedError) as refused:
        Runtime(model).load("a", folder)

    assert [finding.rule for finding in refused.value.findings] == ["replication-range", "replication-range"]
    assert len(model.model.layers) == 3


def test_two_adapters_that_repeat_alike_mix_in_a_batch(loaded, tmp_path):
    runtime, folder = loaded
    other = lora_folder(tmp_path / "b", _three_layers(), seed=5, layer_replication=RANGES)
    expected = {
        name: _out(PeftModel.from_pretrained(_three_layers(), path)) for name, path in (("a", folder), ("b", other))
    }

    runtime.load("b", other)
    rows = _out(runtime, adapter_names=["b", "a", "b"])

    torch.testing.assert_close(rows[1], expected["a"][1], **CLOSE)
    torch.testing.assert_close(rows[[0, 2]], expected["b"][[0, 2]], **CLOSE)
