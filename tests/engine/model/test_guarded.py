"""What a runtime refuses, and what it keeps in step when calls come one inside the other."""

import copy
import gc
import pickle
import threading
import weakref

import pytest
import torch

from engine.errors import (
    BatchError,
    InUseError,
    OptionError,
    RefusedError,
    RuntimeStateError,
    SlotsFullError,
    StaleCacheError,
    UnknownAdapterError,
)
from engine.model.runtime import Runtime
from tests.engine.model.live import llama, lora_folder
from tests.engine.model.states import same_state, state

IDS = torch.arange(18).reshape(3, 6)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root, model = tmp_path_factory.mktemp("adapters"), llama()
    found = {name: lora_folder(root / name, model, seed=seed, r=2 + seed) for seed, name in enumerate("abc")}
    found["dora"] = lora_folder(root / "dora", model, seed=7, use_dora=True)
    found["saved"] = lora_folder(root / "saved", model, seed=8, modules_to_save=["lm_head"])
    found["table"] = lora_folder(root / "table", model, seed=9, target_modules=["embed_tokens", "lm_head"])
    found["other"] = lora_folder(root / "other", model, seed=10, r=9, target_modules=["o_proj", "q_proj"])
    return found


@pytest.fixture
def runtime(folders):
    runtime = Runtime(llama(), slots=4, target_rank=10)
    for name in "abc":
        runtime.load(name, folders[name])
    return runtime


def logits(call, **inputs):
    with torch.no_grad():
        return call(IDS, **inputs).logits


def alone(runtime, name):
    return logits(runtime, adapter_names=[name] * 3)


@pytest.mark.parametrize("name", ["a", "dora", "saved", "table"])
def test_under_autocast_an_adapter_is_computed_in_its_own_dtype(folders, name):
    """The result differs from that of float32 by the rounding of the base's layers alone: some 0.01 here."""
    model = llama()
    runtime = Runtime(model)
    runtime.load(name, folders[name])
    exact, base = alone(runtime, name), logits(model)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = logits(model) - base
        runtime.activate(name)
        whole, mixed = logits(model), logits(runtime, adapter_names=[name, "__base__", name])

    allowed = 3 * float(rounded.abs().max()) + 0.02 * float(exact.abs().max())
    assert float((whole - exact).abs().max()) < allowed
    assert float((mixed[0] - exact[0]).abs().max()) < allowed
    assert float((exact - base).abs().max()) > allowed


CHANGES = {
    "merge": lambda runtime: runtime.merge("b"),
    "merge_and_unload": lambda runtime: runtime.merge_and_unload("b"),
    "detach": lambda runtime: runtime.detach(),
}


@pytest.mark.parametrize("names", [["a"] * 3, ["__base__"] * 3], ids=["an adapter", "the base"])
@pytest.mark.parametrize("change", CHANGES)
def test_weights_and_sites_stay_while_a_batch_runs(runtime, change, names):
    before = state(runtime)

    with runtime.batch(names), pytest.raises(RuntimeStateError, match="while a batch runs"):
        CHANGES[change](runtime)

    assert same_state(state(runtime), before)
    assert runtime.adapters == ("a", "b", "c")
    CHANGES[change](runtime)


def test_weights_stay_merged_while_another_thread_runs_on_them(runtime):
    runtime.merge("a")
    inside, go = threading.Event(), threading.Event()

    def wait_here(*_):
        inside.set()
        go.wait(20)

    hook = runtime.model.model.layers[0].register_forward_hook(wait_here)
    thread = threading.Thread(target=logits, args=(runtime.model,))
    thread.start()
    assert inside.wait(20)
    try:
        with pytest.raises(RuntimeStateError, match="cannot unmerge while a batch runs"):
            runtime.unmerge()
    finally:
        go.set()
        thread.join()
        hook.remove()

    runtime.unmerge()
    assert not runtime.merged


def test_a_cache_of_the_base_is_refused_once_adapters_lie_in_the_weights_and_the_other_way_round(runtime):
    with torch.no_grad():
        of_base = runtime(IDS).past_key_values
        runtime.merge("a")
        with pytest.raises(StaleCacheError, match="filled under the base, now 'a'"):
            runtime(IDS[:, :1], past_key_values=of_base)
        of_a = runtime(IDS).past_key_values
        runtime.unmerge()

        with pytest.raises(StaleCacheError, match=r"filled under 'a' .*, now the base"):
            runtime(IDS[:, :1], past_key_values=of_a)
        runtime.activate("a")
        runtime(IDS[:, :1], past_key_values=of_a)


def test_a_pinned_replacement_without_a_slot_changes_nothing(folders):
    runtime = Runtime(llama(), slots=1, target_rank=8)
    runtime.load("a", folders["a"])
    runtime.activate("a")
    runtime.load("b", folders["b"])
    before, status = state(runtime), runtime.status()

    with pytest.raises(SlotsFullError):
        runtime.load("b", folders["c"], pinned=True, replace=True)

    assert same_state(state(runtime), before)
    assert runtime.status() == status


def test_what_was_prepared_beside_larger_adapters_is_loaded_after_they_left(folders):
    fresh = Runtime(llama())
    fresh.load("a", folders["a"])
    runtime = Runtime(llama())
    runtime.load("other", folders["other"])
    staged = runtime.prepare(folders["a"])
    runtime.detach()

    runtime.load("a", staged)

    assert torch.equal(alone(runtime, "a"), alone(fresh, "a"))


def test_a_swap_is_not_undone_under_an_adapter_that_is_trained(runtime, folders):
    swapped = runtime.swap("a", folders["b"])
    parameters = runtime.parameters("a")

    with pytest.raises(InUseError, match="trained"):
        runtime.undo(swapped)

    next(iter(parameters.values())).data.add_(1.0)
    runtime.settle("a")
    runtime.activate("a")
    assert not torch.equal(logits(runtime), alone(runtime, "b"))


@pytest.mark.parametrize("seal", [False, True], ids=["open", "sealed"])
@pytest.mark.parametrize("change", ["activate", "swap", "disable", "set_scale"])
def test_what_changes_within_a_batch_holds_from_its_end_on(runtime, folders, seal, change):
    base, a, b = logits(runtime), alone(runtime, "a"), alone(runtime, "b")
    runtime.activate("a")
    if seal:
        runtime.seal(max_batch=3)

    with runtime.batch(["a"] * 3):
        if change == "activate":
            runtime.activate("b")
        elif change == "swap":
            runtime.swap("a", folders["b"])
        elif change == "disable":
            runtime.disable()
        else:
            runtime.set_scale("a", 0.0)
        within = logits(runtime.model)

    after = b if change in ("activate", "swap") else base
    torch.testing.assert_close(within, a, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits(runtime.model), after, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seal", [False, True], ids=["open", "sealed"])
def test_a_batch_within_a_batch_gives_way_to_the_outer_one(runtime, seal):
    expected = {name: alone(runtime, name) for name in "ab"}
    if seal:
        runtime.seal(max_batch=3)

    with runtime.batch(["a"] * 3):
        with runtime.batch(["b"] * 3):
            inner = logits(runtime.model)
        outer = logits(runtime.model)

    torch.testing.assert_close(inner, expected["b"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(outer, expected["a"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("path", ["model.layers.0.self_attn.q_proj", "model.embed_tokens"])
def test_a_module_takes_its_input_by_name_as_before(folders, path):
    model = llama()
    runtime = Runtime(model)
    for name in ("a", "table"):
        runtime.load(name, folders[name])
    module = model.get_submodule(path)
    x = IDS if path.endswith("tokens") else torch.randn(3, 32)

    for active in (None, "a", "table"):
        runtime.activate(active)
        with torch.no_grad():
            assert torch.equal(module(input=x), module(x))


@pytest.mark.parametrize("names", [[None, "a", "a"], [["a"]] * 3, ["a", b"a", 1], iter("aaa"), [], "aaa", 5, {"a": 1}])
def test_what_is_no_list_of_names_is_a_typed_error(runtime, names):
    before = state(runtime)

    with pytest.raises(BatchError, match=r"expected .*one adapter name"):
        logits(runtime, adapter_names=names)

    assert same_state(state(runtime), before)


def test_names_are_matched_whole_and_in_their_case(runtime):
    for wrong in ("A", "a ", "aa", ""):
        with pytest.raises(UnknownAdapterError):
            logits(runtime, adapter_names=[wrong] * 3)
        with pytest.raises(UnknownAdapterError):
            runtime.activate(wrong)
    with pytest.raises(OptionError, match="expected names"):
        runtime.activate([None])


@pytest.mark.parametrize(
    ("setting", "value"),
    [("slots", 0), ("slots", -1), ("slots", 2.5), ("target_rank", 0), ("host_bytes", -1), ("dtype", torch.int8)],
)
def test_room_that_no_runtime_can_have_is_refused_at_once(setting, value):
    with pytest.raises(OptionError, match=f"{setting}: expected"):
        Runtime(llama(), **{setting: value})


def test_scales_beyond_float32_are_refused(runtime, tmp_path):
    huge = lora_folder(tmp_path / "huge", llama(), lora_alpha=10**300)
    before = state(runtime)

    with pytest.raises(RefusedError, match="more than float32 holds"):
        runtime.load("huge", huge)
    with pytest.raises(OptionError, match="more than float32 holds"):
        runtime.set_scale("a", 1e300)

    assert same_state(state(runtime), before)


def test_a_vector_is_no_batch(runtime):
    q_proj = runtime.model.model.layers[0].self_attn.q_proj
    runtime.activate("a")
    q_proj(torch.randn(32))

    with runtime.batch(["a", "b"]), pytest.raises(BatchError, match="found 1-D"):
        q_proj(torch.randn(32))


@pytest.mark.parametrize(
    "x",
    [
        torch.ones(2, 32),
        torch.ones(2, 3, 32),
        torch.ones(2, 3, 4, 32),
        torch.arange(192.0).view(3, 2, 32).transpose(0, 1),
        torch.arange(64.0).view(32, 2).t(),
        torch.ones(0, 32),
        torch.ones(2, 0, 32),
    ],
    ids=lambda x: "x".join(map(str, x.shape)) + ("" if x.is_contiguous() else " strided"),
)
def test_inputs_of_any_shape_and_stride_give_what_their_rows_give(runtime, x):
    q_proj = runtime.model.model.layers[0].self_attn.q_proj
    runtime.activate("a")
    with torch.no_grad():
        a = q_proj(x)
        runtime.activate("b")
        b = q_proj(x)
        with runtime.batch(["a", "b"]):
            mixed = q_proj(x)

    expected = torch.cat([a[:1], b[1:]])
    assert mixed.shape == (*x.shape[:-1], 32)
    torch.testing.assert_close(mixed, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["first", "last"])
def test_two_runtimes_leave_one_model_in_either_order(folders, order):
    model = llama()
    base = logits(model)
    both = [Runtime(model), Runtime(model)]
    for one, name in zip(both, "ab", strict=True):
        one.load(name, folders[name])

    both[order[0]].detach()
    both[order[1]].activate("ab"[order[1]])
    assert not torch.equal(logits(model), base)
    both[order[1]].detach()

    assert not any("forward" in vars(module) for module in model.modules())
    assert torch.equal(logits(model), base)


def test_nothing_of_a_runtime_outlives_its_detach(folders):
    model = llama()
    runtime = Runtime(model)
    for name in ("a", "dora", "saved", "table"):
        runtime.load(name, folders[name])
    logits(runtime, adapter_names=["a", "dora", "__base__"])
    bank = runtime._residence.arena.banks[0]
    held = [weakref.ref(bank), weakref.ref(bank.images)]
    del bank

    runtime.detach()

    gc.collect()
    assert [one() for one in held] == [None, None]


@pytest.mark.parametrize("make", [copy.deepcopy, pickle.dumps])
def test_a_model_with_adapters_on_it_is_neither_copied_nor_pickled(runtime, make):
    with pytest.raises(RuntimeStateError, match="has adapters on it"):
        make(runtime.model)

    make(runtime.detach())


def test_a_model_is_saved_without_a_trace_of_its_adapters(runtime, tmp_path):
    expected = {name: tensor.clone() for name, tensor in llama().state_dict().items()}
    runtime.activate("a")

    runtime.model.save_pretrained(tmp_path / "saved")

    again = type(runtime.model).from_pretrained(tmp_path / "saved").state_dict()
    assert same_state(again, expected)


def test_checkpointed_layers_give_the_same_gradients(runtime):
    runtime.activate("a")
    parameters = runtime.parameters("a")
    found = []
    runtime.model.train()
    for checkpointed in (True, False):
        if checkpointed:
            runtime.model.gradient_checkpointing_enable()
        else:
            runtime.model.gradient_checkpointing_disable()
        runtime.model(IDS, labels=IDS, use_cache=False).loss.backward()
        found.append([parameter.grad.clone() for parameter in parameters.values()])
        for parameter in parameters.values():
            parameter.grad = None

    assert all(torch.allclose(one, other) for one, other in zip(*found, strict=True))
    assert any(one.any() for one in found[0])


def test_modules_that_the_model_replaced_are_told_by_name(runtime, tmp_path):
    head = lora_folder(tmp_path / "head", llama(), target_modules=["lm_head"])
    runtime.load("head", head)
    runtime.activate("head")

    runtime.model.resize_token_embeddings(70, mean_resizing=False)

    for call in (lambda: runtime.activate("head"), lambda: runtime.load("more", head)):
        with pytest.raises(RuntimeStateError, match="lm_head: the model has another module there"):
            call()
    runtime.activate("a")


@pytest.mark.parametrize("factor", [0.0, 0.5, -2.0])
@pytest.mark.parametrize("name", ["dora", "saved", "table"])
def test_a_merge_takes_an_adapter_as_often_as_a_forward_does(runtime, folders, name, factor):
    runtime.load(name, folders[name])
    runtime.set_scale(name, factor)
    expected = alone(runtime, name)

    runtime.merge(name)

    torch.testing.assert_close(logits(runtime), expected, rtol=1e-4, atol=1e-4)
