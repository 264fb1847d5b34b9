"""Another adapter under a name: at once, whole, undone bit by bit, and nothing else touched."""

import threading

import pytest
import torch

from engine.errors import (
    AlreadyLoadedError,
    HeaderError,
    InUseError,
    MergedError,
    OptionError,
    RefusedError,
    UnknownAdapterError,
    UnreadableError,
)
from engine.model.runtime import Runtime
from tests.engine.model.live import llama, lora_folder
from tests.engine.model.states import same_state, state, with_nan

IDS = torch.arange(18).reshape(3, 6)


@pytest.fixture
def model():
    return llama()


@pytest.fixture
def folders(model, tmp_path):
    return {name: lora_folder(tmp_path / name, model, seed=seed, r=3 + seed) for seed, name in enumerate("abc")}


def logits(model, **inputs):
    with torch.inference_mode():
        return model(IDS, **inputs).logits


def test_a_swapped_name_gives_what_the_other_adapter_gives_and_undo_its_own_bits(model, folders):
    runtime = Runtime(model, target_rank=8)
    runtime.load("a", folders["a"])
    runtime.load("b", folders["b"])
    a, b = logits(runtime, adapter_names=["a"] * 3), logits(runtime, adapter_names=["b"] * 3)
    runtime.activate("a")

    swapped = runtime.swap("a", folders["b"])
    as_b = logits(runtime, adapter_names=["a"] * 3)
    runtime.undo(swapped)

    assert torch.equal(as_b, b)
    assert not torch.equal(a, b)
    assert torch.equal(logits(runtime, adapter_names=["a"] * 3), a)


def test_a_swap_leaves_every_other_slot_its_bits_also_those_whose_name_contains_it(model, folders):
    runtime = Runtime(model, target_rank=8)
    runtime.load("a", folders["a"])
    runtime.load("ab", folders["b"])
    runtime.load("lora.a", folders["c"])
    slots = {name: runtime._residence.slots.peek(name) for name in runtime.adapters}
    before = {name: runtime._residence.arena.banks[0].images[slot].clone() for name, slot in slots.items()}

    runtime.swap("a", folders["c"])

    for name in ("ab", "lora.a"):
        assert runtime._residence.slots.peek(name) == slots[name]
        assert torch.equal(runtime._residence.arena.banks[0].images[slots[name]], before[name])
    assert not runtime._residence.arena.banks[0].images[0].any()


def test_a_lower_rank_leaves_nothing_of_the_higher_one(model, folders):
    fresh = Runtime(model, target_rank=8)
    fresh.load("a", folders["a"])
    expected = logits(fresh, adapter_names=["a"] * 3)
    fresh.detach()
    runtime = Runtime(model, slots=1, target_rank=8)
    runtime.load("c", folders["c"])
    runtime.activate("c")

    runtime.swap("c", folders["a"])

    assert torch.equal(logits(runtime, adapter_names=["c"] * 3), expected)


def test_a_running_batch_keeps_the_numbers_it_began_with(model, folders):
    runtime = Runtime(model, slots=2, target_rank=8)
    runtime.load("a", folders["a"])
    expected = logits(runtime, adapter_names=["a"] * 3)

    with runtime.batch(["a"] * 3):
        for other in "bcb":
            thread = threading.Thread(target=runtime.swap, args=("a", folders[other]))
            thread.start()
            thread.join()
        within = logits(model)

    assert torch.equal(within, expected)
    assert not torch.equal(logits(runtime, adapter_names=["a"] * 3), expected)


def test_a_forward_that_runs_keeps_the_adapter_that_was_active_when_it_began(model, folders):
    runtime = Runtime(model, slots=2, target_rank=8)
    runtime.load("a", folders["a"])
    runtime.activate("a")
    expected = logits(model)
    done = []

    def swap_midway(*_):
        if not done:
            done.append(runtime.swap("a", folders["b"]))

    hook = model.model.layers[0].register_forward_hook(swap_midway)
    within = logits(model)
    hook.remove()

    assert torch.equal(within, expected)
    assert not torch.equal(logits(model), expected)


BAD = {
    "unknown name": (lambda runtime, folders: runtime.swap("x", folders["b"]), UnknownAdapterError),
    "another model": (lambda runtime, folders: runtime.swap("a", folders["other"]), RefusedError),
    "rank over target_rank": (lambda runtime, folders: runtime.swap("a", folders["large"]), RefusedError),
    "NaN": (lambda runtime, folders: runtime.swap("a", folders["nan"]), RefusedError),
    "no such folder": (lambda runtime, folders: runtime.swap("a", folders["a"] / "x"), UnreadableError),
    "cut short": (lambda runtime, folders: runtime.swap("a", folders["short"]), HeaderError),
    "name taken": (lambda runtime, folders: runtime.load("a", folders["b"]), AlreadyLoadedError),
    "reserved name": (lambda runtime, folders: runtime.load("__base__", folders["b"]), OptionError),
    "empty name": (lambda runtime, folders: runtime.load("", folders["b"]), OptionError),
    "unload of an active one": (lambda runtime, folders: runtime.unload("a"), InUseError),
    "scale NaN": (lambda runtime, folders: runtime.set_scale("a", float("nan")), OptionError),
}


@pytest.mark.parametrize("case", BAD)
def test_a_call_that_fails_leaves_every_tensor_as_it_was(case, model, folders, tmp_path):
    call, error = BAD[case]
    folders["other"] = lora_folder(tmp_path / "other", llama(hidden_size=16))
    folders["large"] = lora_folder(tmp_path / "large", model, r=9)
    folders["nan"] = with_nan(lora_folder(tmp_path / "nan", model))
    folders["short"] = lora_folder(tmp_path / "short", model)
    weights = folders["short"] / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    runtime = Runtime(model, target_rank=8)
    runtime.load("a", folders["a"])
    runtime.load("b", folders["b"])
    runtime.activate("a")
    before, status = state(runtime), runtime.status()

    with pytest.raises(error):
        call(runtime, folders)

    assert same_state(state(runtime), before)
    assert runtime.status() == status


def test_a_swap_while_merged_is_refused(model, folders):
    runtime = Runtime(model, target_rank=8)
    runtime.load("a", folders["a"])
    runtime.merge("a")
    before = state(runtime)

    with pytest.raises(MergedError, match="cannot swap 'a': a merged into the weights"):
        runtime.swap("a", folders["b"])

    assert same_state(state(runtime), before)


def test_a_swap_cannot_be_undone_over_another_swap(model, folders):
    runtime = Runtime(model, target_rank=8)
    runtime.load("a", folders["a"])
    first = runtime.swap("a", folders["b"])
    runtime.swap("a", folders["c"])
    before = state(runtime)

    with pytest.raises(InUseError, match="'a' is not what that swap left"):
        runtime.undo(first)

    assert same_state(state(runtime), before)
