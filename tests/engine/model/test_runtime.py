"""The runtime against PEFT on the same files and the same model."""

import copy

import pytest
import torch
from peft import PeftModel

from engine.errors import RefusedError, UnknownAdapterError
from engine.model.runtime import Runtime
from tests.engine.model.live import llama, lora_folder

IDS = torch.arange(18).reshape(3, 6)


def _peft_logits(model, folder):
    with torch.inference_mode():
        return PeftModel.from_pretrained(copy.deepcopy(model), folder)(IDS).logits


@pytest.fixture
def model():
    return llama()


def _logits(model, **inputs):
    with torch.inference_mode():
        return model(IDS, **inputs).logits


def test_an_active_adapter_gives_what_peft_gives(model, tmp_path):
    folder = lora_folder(tmp_path / "a", model)
    expected = _peft_logits(model, folder)
    runtime = Runtime(model)

    runtime.load("a", folder)
    runtime.activate("a")

    torch.testing.assert_close(_logits(model), expected, rtol=1e-6, atol=1e-6)


def test_rows_of_one_batch_go_through_the_adapters_they_name(model, tmp_path):
    base = _logits(model)
    expected = {
        name: _peft_logits(model, lora_folder(tmp_path / name, model, seed=seed)) for seed, name in enumerate("ab")
    }
    runtime = Runtime(model)
    for name in "ab":
        runtime.load(name, tmp_path / name)

    found = _logits(runtime, adapter_names=["b", "__base__", "a"])

    torch.testing.assert_close(found[0], expected["b"][0], rtol=1e-5, atol=1e-5)
    assert torch.equal(found[1], base[1])
    torch.testing.assert_close(found[2], expected["a"][2], rtol=1e-5, atol=1e-5)


def test_detach_leaves_the_same_objects_and_numbers(model, tmp_path):
    modules, base = dict(model.named_modules()), _logits(model)
    runtime = Runtime(model)
    runtime.load("a", lora_folder(tmp_path / "a", model))
    runtime.activate("a")
    assert not torch.equal(_logits(model), base)

    assert runtime.detach() is model

    assert all(dict(model.named_modules())[path] is module for path, module in modules.items())
    assert not any("forward" in vars(module) for module in modules.values())
    assert torch.equal(_logits(model), base)


def test_an_adapter_for_another_model_is_refused_with_every_reason(model, tmp_path):
    other = llama(hidden_size=16, num_hidden_layers=3)
    runtime = Runtime(model)

    with pytest.raises(RefusedError) as refused:
        runtime.load("a", lora_folder(tmp_path / "a", other))

    rules = [finding.rule for finding in refused.value.findings]
    assert (rules.count("base-shape"), rules.count("base-module-absent")) == (10, 3)
    assert not runtime.adapters


def test_an_unknown_name_is_an_error_that_lists_the_known(model, tmp_path):
    runtime = Runtime(model)
    runtime.load("ab", lora_folder(tmp_path / "a", model))

    with pytest.raises(UnknownAdapterError, match="no adapter 'a' is loaded; loaded: ab"):
        runtime.activate("a")
