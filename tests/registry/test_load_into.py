"""Versions on a live model, by reference."""

import pytest
import torch

from engine.errors import RefusedError
from engine.model.runtime import Runtime
from registry.errors import NotFoundError
from tests.engine.model.live import llama, lora_folder

IDS = torch.arange(12).reshape(2, 6)


def _logits(model, **inputs):
    with torch.inference_mode():
        return model(IDS, **inputs).logits


@pytest.fixture
def pushed(prepared):
    return prepared(push_two)


def push_two(registry, tmp_path):
    """A registry that holds team/sql@1 (prod) and @2."""
    registry.push(lora_folder(tmp_path / "one", llama(), seed=1), "team/sql", aliases=["prod"])
    registry.push(lora_folder(tmp_path / "two", llama(), seed=2), "team/sql")


def test_a_reference_is_the_name_that_batches_use(pushed, tmp_path):
    runtime = Runtime(llama())
    direct = Runtime(llama())
    direct.load("one", tmp_path / "one")

    loaded = pushed.load_into(runtime, "team/sql@prod")

    assert (loaded.name, loaded.ref) == ("team/sql@prod", "team/sql@1")
    assert loaded.path == pushed.pull("team/sql@1")
    found = _logits(runtime, adapter_names=["team/sql@prod", "__base__"])
    assert torch.equal(found, _logits(direct, adapter_names=["one", "__base__"]))


def test_the_reference_is_named_in_full_whatever_was_typed(pushed):
    runtime = Runtime(llama())

    assert pushed.load_into(runtime, "TEAM/sql:v2").name == "team/sql@2"
    assert runtime.adapters == ("team/sql@2",)


def test_after_an_alias_moved_the_same_call_swaps(pushed, tmp_path):
    runtime = Runtime(llama())
    pushed.load_into(runtime, "team/sql@prod", name="sql")
    runtime.activate("sql")
    before = _logits(runtime.model)
    direct = Runtime(llama())
    direct.load("two", tmp_path / "two")
    direct.activate("two")

    pushed.set_alias("team/sql@2", "prod")
    assert torch.equal(_logits(runtime.model), before), "an alias alone changes no model"
    loaded = pushed.load_into(runtime, "team/sql@prod", name="sql")

    assert loaded.ref == "team/sql@2"
    assert runtime.adapters == ("sql",)
    assert torch.equal(_logits(runtime.model), _logits(direct.model))


def test_what_does_not_fit_leaves_the_model(pushed):
    runtime = Runtime(llama(hidden_size=16))
    before = _logits(runtime.model)

    with pytest.raises(RefusedError, match="expected"):
        pushed.load_into(runtime, "team/sql")

    assert runtime.adapters == ()
    assert torch.equal(_logits(runtime.model), before)


def test_an_unknown_reference_loads_nothing(pushed):
    runtime = Runtime(llama())

    with pytest.raises(NotFoundError, match="team/sql@9"):
        pushed.load_into(runtime, "team/sql@9")

    assert runtime.adapters == ()
