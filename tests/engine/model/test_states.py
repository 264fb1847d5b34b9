"""What is on, what is kept where, and what happens to adapters that wait in their folders."""

import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.errors import InUseError, OptionError, OutOfRoomError, SlotsFullError, SourceGoneError
from engine.model.memory import arena
from engine.model.runtime import Runtime
from tests.engine.model.live import llama, lora_folder
from tests.engine.model.states import same_state, state

IDS = torch.arange(18).reshape(3, 6)


@pytest.fixture
def model():
    return llama(num_hidden_layers=1)


@pytest.fixture
def folders(model, tmp_path):
    return {name: lora_folder(tmp_path / name, model, seed=seed) for seed, name in enumerate("abc")}


def runtime_of(model, folders, **room):
    runtime = Runtime(model, **{"target_rank": 4, **room})
    for name, folder in folders.items():
        runtime.load(name, folder)
    return runtime


def logits(model, **inputs):
    with torch.inference_mode():
        return model(IDS, **inputs).logits


def alone(runtime, name):
    return logits(runtime, adapter_names=[name] * 3)


def test_disabled_within_disabled_stays_so_until_the_outer_end(model, folders):
    base = logits(model)
    runtime = runtime_of(model, folders)
    runtime.activate("a")
    on = logits(model)

    with runtime.disable():
        with runtime.disable():
            pass
        within = logits(model)
        with runtime.enable():
            enabled = logits(model)

    assert torch.equal(within, base)
    assert torch.equal(enabled, on)
    assert torch.equal(logits(model), on)
    assert runtime.enabled


def test_a_scale_multiplies_what_the_adapter_adds(model, folders):
    base = logits(model)
    runtime = runtime_of(model, folders)
    runtime.activate("a")
    on = logits(model)

    runtime.set_scale("a", 0)
    none = logits(model)
    runtime.set_scale("a", 1)

    assert torch.equal(none, base)
    assert torch.equal(logits(model), on)


def test_a_swapped_name_keeps_its_scale_and_its_pin(model, folders):
    runtime = runtime_of(model, folders)
    runtime.set_scale("a", 0.5)
    runtime.pin("a")

    runtime.swap("a", folders["b"])

    found = runtime.status().adapters[0]
    assert (found.name, found.factor, found.pinned) == ("a", 0.5, True)


def test_the_adapter_unused_for_longest_leaves_its_slot_and_a_pinned_one_never(model, folders):
    runtime = runtime_of(model, folders, slots=2)
    runtime.pin("a")
    runtime.activate("b")

    runtime.activate("c")

    assert {one.name: one.slot is not None for one in runtime.status().adapters} == {"a": True, "b": False, "c": True}
    with pytest.raises(SlotsFullError, match="all 2 slots"):
        alone(runtime, "b")
    runtime.unpin("a")
    assert torch.isfinite(alone(runtime, "b")).all()


@pytest.mark.parametrize(("prepare", "told"), [(Runtime.activate, "active"), (Runtime.pin, "pinned")])
def test_what_is_in_use_is_not_unloaded(prepare, told, model, folders):
    runtime = runtime_of(model, folders)
    prepare(runtime, "a")

    with pytest.raises(InUseError, match=f"'a' is {told}"):
        runtime.unload("a")


def test_what_runs_is_not_unloaded(model, folders):
    runtime = runtime_of(model, folders)

    with runtime.batch(["a", "b", "a"]), pytest.raises(InUseError, match="'b' is in a batch that runs now"):
        runtime.unload("b")

    runtime.unload("b")
    assert runtime.adapters == ("a", "c")


@pytest.mark.parametrize("name", ["", " a", "a\n", "__base__", "x" * 257, 3, None])
def test_what_is_no_name_is_refused(name, model, folders):
    with pytest.raises(OptionError):
        Runtime(model).load(name, folders["a"])


@pytest.mark.parametrize("name", ["lora", "a.b.c", "team/sql@prod", "default", "base_layer", "ä"])
def test_any_other_text_is_a_name_that_is_matched_whole(name, model, folders):
    runtime = runtime_of(model, folders)
    runtime.load(name, folders["b"])

    assert torch.equal(alone(runtime, name), alone(runtime, "b"))


def test_images_beyond_the_bound_are_dropped_and_read_again(model, folders):
    kept = runtime_of(model, folders)
    expected = {name: alone(kept, name) for name in folders}
    one = kept.status().host_bytes // 3
    kept.detach()
    runtime = runtime_of(model, folders, slots=1, host_bytes=2 * one)
    status = runtime.status()

    assert (status.host_bytes, [adapter.on_host for adapter in status.adapters]) == (2 * one, [False, True, True])
    assert all(torch.equal(alone(runtime, name), expected[name]) for name in "cbaacb")
    assert runtime.status().host_bytes == 2 * one


def test_a_pinned_image_is_not_dropped(model, folders):
    runtime = Runtime(model, slots=2, target_rank=4, host_bytes=0)
    runtime.load("a", folders["a"], pinned=True)
    runtime.load("b", folders["b"])

    assert [adapter.on_host for adapter in runtime.status().adapters] == [True, False]


def other_numbers(folder):
    weights = folder / "adapter_model.safetensors"
    times = weights.stat()
    tensors = load_file(weights)
    first = next(iter(tensors))
    save_file({**tensors, first: tensors[first] * 2}, weights, metadata={"format": "pt"})
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))


def other_settings(folder):
    config = folder / "adapter_config.json"
    config.write_text(config.read_text().replace('"lora_alpha": 6', '"lora_alpha": 7'))


CHANGES = {
    "vanished": (shutil.rmtree, "cannot be read again"),
    "cut short": (lambda folder: os.truncate(folder / "adapter_model.safetensors", 500), "cannot be read again"),
    "same size, time and header, other numbers": (other_numbers, "changed since it was loaded"),
    "other alpha": (other_settings, "changed since it was loaded"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_other_content_is_never_taken_under_a_name(case, model, folders):
    change, told = CHANGES[case]
    runtime = runtime_of(model, folders, slots=1, host_bytes=0)
    runtime.activate("c")
    change(folders["a"])
    before, status = state(runtime), runtime.status()

    with pytest.raises(SourceGoneError, match=told) as refused:
        runtime.activate("a")

    assert refused.value.path == folders["a"]
    assert same_state(state(runtime), before)
    assert runtime.status() == status


def test_the_same_content_written_anew_is_taken(model, folders, tmp_path):
    runtime = runtime_of(model, folders, slots=1, host_bytes=0)
    expected = alone(runtime, "a")
    runtime.activate("c")
    shutil.copytree(folders["a"], tmp_path / "copy")
    shutil.rmtree(folders["a"])
    shutil.copytree(tmp_path / "copy", folders["a"])

    runtime.activate("a")

    assert torch.equal(logits(model), expected)


def test_running_out_of_memory_while_slots_grow_changes_nothing(model, folders, tmp_path, monkeypatch):
    more = lora_folder(tmp_path / "more", model, r=9, target_modules=["q_proj", "o_proj"])
    runtime = Runtime(model)
    runtime.load("a", folders["a"])
    runtime.activate("a")
    before, status, expected = state(runtime), runtime.status(), logits(model)
    modules = {path: vars(module).get("forward") for path, module in model.named_modules()}

    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(arena.torch, "zeros", full)
    for call in (lambda: runtime.load("b", more), lambda: runtime.swap("a", more)):
        with pytest.raises(OutOfRoomError, match=r"no memory for [0-9]+ bytes"):
            call()
    monkeypatch.undo()

    assert same_state(state(runtime), before)
    assert runtime.status() == status
    assert {path: vars(module).get("forward") for path, module in model.named_modules()} == modules
    assert torch.equal(logits(model), expected)


def test_slots_made_in_inference_mode_are_written_outside_of_it(model, folders):
    with torch.inference_mode():
        runtime = runtime_of(model, folders, slots=1)

    runtime.activate("b")

    assert torch.isfinite(logits(model)).all()
