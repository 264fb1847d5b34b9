"""A KV cache goes on under the adapters it was filled under, or not at all."""

import copy

import pytest
import torch

from engine.errors import StaleCacheError
from engine.model.runtime import Runtime
from tests.engine.model.live import llama, lora_folder

IDS = torch.arange(18).reshape(3, 6)
NEXT = IDS[:, :1]


@pytest.fixture
def model():
    return llama(num_hidden_layers=1)


@pytest.fixture
def runtime(model, tmp_path):
    folders = [lora_folder(tmp_path / name, model, seed=seed) for seed, name in enumerate("ab")]
    runtime = Runtime(model)
    for folder in folders:
        runtime.load(folder.name, folder)
    return runtime


def step(called, cache, ids=NEXT, **inputs):
    with torch.inference_mode():
        return called(ids, past_key_values=cache, **inputs)


def filled(runtime, **inputs):
    return step(runtime, None, IDS, **inputs).past_key_values


def test_a_cache_goes_on_under_its_own_adapter(model, runtime):
    with torch.inference_mode():
        whole = runtime(torch.cat([IDS, NEXT], 1), adapter_names=["a", "b", "__base__"]).logits[:, -1]

    cache = filled(runtime, adapter_names=["a", "b", "__base__"])

    found = step(runtime, cache, adapter_names=["a", "b", "__base__"]).logits[:, -1]
    torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-6)


CHANGES = {
    "another adapter": (lambda runtime: runtime.activate("b"), r"'a' \(load 1\), now 'b' \(load 2\)"),
    "the base": (lambda runtime: runtime.activate(None), r"'a' \(load 1\), now the base"),
    "disabled": (lambda runtime: runtime.disable(), r"'a' \(load 1\), now the base"),
    "one more": (lambda runtime: runtime.activate(["a", "b"]), r"now 'a' \(load 1\) \+ 'b' \(load 2\)"),
    "another scale": (lambda runtime: runtime.set_scale("a", 0.5), r"now 'a' \(load 1, scale 0.5\)"),
    "a swap": (lambda runtime: runtime.swap("a", runtime.status().adapters[1].path), r"now 'a' \(load 3\)"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_cache_is_refused_after(case, model, runtime):
    change, told = CHANGES[case]
    runtime.activate("a")
    cache = filled(model)
    length = cache.get_seq_length()

    change(runtime)

    for called in (model, runtime):
        with pytest.raises(StaleCacheError, match=told):
            step(called, cache)
    with pytest.raises(StaleCacheError):
        step(model, copy.deepcopy(cache))
    assert cache.get_seq_length() == length


def test_an_undone_swap_lets_the_cache_go_on(model, runtime):
    runtime.activate("a")
    cache = filled(model)

    runtime.undo(runtime.swap("a", runtime.status().adapters[1].path))

    assert step(model, cache).logits.shape[1] == 1


def test_rows_must_be_those_of_the_cache_each_in_its_place(runtime):
    cache = filled(runtime, adapter_names=["a", "b", "__base__"])

    with pytest.raises(StaleCacheError, match="filled under 'a'"):
        step(runtime, cache, adapter_names=["b", "a", "__base__"])


def test_beams_share_their_rows_adapter(model, runtime):
    cache = filled(runtime, adapter_names=["a", "b", "__base__"])
    cache.batch_repeat_interleave(2)
    cache.reorder_cache(torch.tensor([1, 0, 2, 2, 4, 5]))

    with runtime.batch(["a", "b", "__base__"]):
        found = step(model, cache, NEXT.repeat_interleave(2, 0))

    assert found.logits.shape[0] == 6


def test_a_cache_of_the_base_is_refused_under_an_adapter_also_one_from_before(model, tmp_path):
    cache = filled(model)
    folder = lora_folder(tmp_path / "a", model)
    runtime = Runtime(model)
    runtime.load("a", folder)
    runtime.activate("a")

    with pytest.raises(StaleCacheError, match=r"filled under the base, now 'a' \(load 1\)"):
        step(model, cache)


def test_an_emptied_cache_begins_anew(model, runtime):
    runtime.activate("a")
    cache = filled(model)
    runtime.activate("b")

    cache.reset()

    assert step(model, cache, IDS).logits.shape[1] == 6
    assert step(model, cache).logits.shape[1] == 1
