"""A sealed runtime under torch.compile: whatever is on changes data alone, so that nothing is compiled anew."""

import threading

import pytest
import torch
import torch._dynamo
from torch._dynamo.exc import RecompileError

from engine.errors import BatchError, OptionError, RuntimeStateError, SealedError, StaleCacheError
from engine.model.runtime import Runtime
from tests.engine.model.live import llama, lora_folder
from tests.engine.model.states import same_state, state

IDS = torch.arange(18).reshape(3, 6)
MODULES = ["q_proj", "v_proj", "down_proj"]
BATCHES = (["a", "b", "__base__"], ["b"] * 3, ["__base__"] * 3, ["b", "__base__", "a"])
STRICT = {"error_on_recompile": True, "inline_inbuilt_nn_modules": False}
"""PEFT's own recipe: code is compiled once, or the call fails."""


@pytest.fixture
def model():
    torch._dynamo.reset()
    return llama(num_hidden_layers=1)


def sealed_runtime(model, tmp_path, **seal):
    folders = [
        lora_folder(tmp_path / name, model, seed=seed, r=3 + seed, target_modules=MODULES)
        for seed, name in enumerate("ab")
    ]
    runtime = Runtime(model, slots=4, target_rank=8)
    for folder in folders:
        runtime.load(folder.name, folder)
    runtime.seal(max_batch=4, **seal)
    return runtime


def logits(call, **inputs):
    with torch.no_grad():
        return call(input_ids=IDS, use_cache=False, **inputs).logits


def changes(runtime, adapters, count):
    """So many changes of every sort, one a step: swaps to other ranks, activations, disabling, scales."""
    for step in range(count):
        runtime.swap("ab"[step % 2], adapters[step % len(adapters)])
        yield
        runtime.activate((None, "a", "b")[step % 3])
        yield
        runtime.set_scale("a", 0.25 * (step % 5))
        yield
        with runtime.disable():
            yield


def run_changes(model, tmp_path, *, count, backend):
    reference = llama(num_hidden_layers=1)
    folders = [
        lora_folder(tmp_path / f"r{rank}", model, seed=rank, r=rank, target_modules=MODULES) for rank in (1, 5, 8)
    ]
    runtime, plain = sealed_runtime(model, tmp_path), Runtime(reference, slots=4, target_rank=8)
    for name in "ab":
        plain.load(name, tmp_path / name)
    model.compile(fullgraph=True, backend=backend)
    staged = [[one.prepare(folder) for folder in folders] for one in (runtime, plain)]
    worst = 0.0
    with torch._dynamo.config.patch(**STRICT):
        both = [changes(one, ready, count) for one, ready in zip((runtime, plain), staged, strict=True)]
        for step, _ in enumerate(zip(*both, strict=True)):
            names = BATCHES[step % len(BATCHES)]
            for inputs in ({}, {"adapter_names": names}):
                difference = logits(runtime, **inputs) - logits(plain, **inputs)
                worst = max(worst, float(difference.abs().max()))
    return worst


def test_swaps_ranks_mixes_scales_and_switching_compile_nothing_anew_and_equal_eager(model, tmp_path):
    assert run_changes(model, tmp_path, count=25, backend="eager") < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_hundred_swaps_compile_nothing_anew(model, tmp_path, backend):
    assert run_changes(model, tmp_path, count=100, backend=backend) < 1e-5


def test_a_layout_that_grows_is_compiled_anew(model, tmp_path):
    """The control: the same calls without `seal`'s promise fail under the same strictness."""
    runtime = sealed_runtime(model, tmp_path)
    model.compile(fullgraph=True, backend="eager")
    with torch._dynamo.config.patch(**STRICT):
        logits(runtime, adapter_names=["a"] * 3)
        runtime.unseal()
        runtime.load("c", lora_folder(tmp_path / "c", llama(num_hidden_layers=1), target_modules=[*MODULES, "o_proj"]))
        runtime.seal(max_batch=4)

        with pytest.raises(RecompileError):
            logits(runtime, adapter_names=["a"] * 3)


def test_base_rows_of_a_sealed_runtime_have_the_bases_bits(model, tmp_path):
    base = logits(model)
    runtime = sealed_runtime(model, tmp_path)
    runtime.activate("a")

    mixed = logits(runtime, adapter_names=["a", "__base__", "b"])
    with runtime.disable():
        disabled = logits(runtime, adapter_names=["a", "a", "b"])

    assert torch.equal(mixed[1], base[1])
    assert torch.equal(disabled, base)
    assert torch.equal(logits(runtime), logits(runtime, adapter_names=["a"] * 3))
    assert not torch.equal(mixed[0], base[0])


def test_beams_and_tokens_repeat_the_rows_of_a_batch_in_line(model, tmp_path):
    runtime = sealed_runtime(model, tmp_path)
    apart = logits(runtime, adapter_names=["a", "__base__", "b"])

    with runtime.batch(["a", "__base__", "b"]), torch.no_grad():
        repeated = model(IDS.repeat_interleave(2, 0), use_cache=False).logits

    torch.testing.assert_close(repeated, apart.repeat_interleave(2, 0), rtol=1e-5, atol=1e-6)


def within(runtime, names):
    with runtime.batch(names):
        runtime.model(IDS)


REFUSED = {
    "a module the layout has not": (lambda runtime, more: runtime.load("c", more), SealedError, "o_proj"),
    "a swap to a module the layout has not": (lambda runtime, more: runtime.swap("a", more), SealedError, "o_proj"),
    "two adapters for every row": (lambda runtime, _: runtime.activate(["a", "b"]), SealedError, "2 adapters at once"),
    "more rows than max_batch": (
        lambda runtime, _: runtime(IDS[[0] * 5], adapter_names=["a"] * 5),
        BatchError,
        "batch of 5 rows",
    ),
    "rows that do not divide": (lambda runtime, _: within(runtime, ["a"] * 2), BatchError, "got 3 rows"),
    "training": (lambda runtime, _: runtime.parameters("b"), SealedError, "'b' is to be trained"),
    "no rows": (lambda runtime, _: runtime.seal(max_batch=0), OptionError, "max_batch"),
    "no lanes": (lambda runtime, _: runtime.seal(max_batch=1, lanes=0), OptionError, "lanes"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_sealed_runtime_has_no_room_for_is_refused_and_changes_nothing(case, model, tmp_path):
    call, error, told = REFUSED[case]
    more = lora_folder(tmp_path / "more", model, target_modules=["o_proj"])
    runtime = sealed_runtime(model, tmp_path)
    runtime.activate("b")
    before, status, expected = state(runtime), runtime.status(), logits(runtime)

    with pytest.raises(error, match=told), torch.no_grad():
        call(runtime, more)

    assert same_state(state(runtime), before)
    assert runtime.status() == status
    assert torch.equal(logits(runtime), expected)


SEVERAL = {
    "linear layers": {},
    "DoRA and an embedding": {"use_dora": True, "target_modules": ["q_proj", "down_proj", "embed_tokens"]},
    "a bias and replaced tokens": {"lora_bias": True, "trainable_token_indices": {"embed_tokens": [1, 5]}},
}


@pytest.mark.parametrize("case", SEVERAL)
def test_several_active_adapters_of_a_sealed_runtime_add_up_as_in_any_other(case, model, tmp_path):
    tokens = SEVERAL[case].get("trainable_token_indices", {})
    runtime = Runtime(model, slots=4)
    for seed, name in enumerate("abc"):
        config = SEVERAL[case] | ({"trainable_token_indices": {at: [seed] for at in tokens}} if tokens else {})
        runtime.load(name, lora_folder(tmp_path / name, llama(num_hidden_layers=1), seed=seed, r=3 + seed, **config))
    sums = (["a", "b"], ["c", "a", "b"], ["b"], [])
    expected = []
    for names in sums:
        runtime.activate(names)
        expected.append(logits(runtime))

    runtime.seal(max_batch=3, lanes=3)

    for names, wanted in zip(sums, expected, strict=True):
        runtime.activate(names)
        torch.testing.assert_close(logits(runtime), wanted, rtol=1e-5, atol=1e-5)
    assert torch.equal(logits(runtime, adapter_names=["__base__"] * 3), expected[-1])


def test_sums_of_adapters_compile_nothing_anew(model, tmp_path):
    runtime, plain = sealed_runtime(model, tmp_path, lanes=2), Runtime(llama(num_hidden_layers=1), slots=4)
    for name in "ab":
        plain.load(name, tmp_path / name)
    model.compile(fullgraph=True, backend="eager")
    with torch._dynamo.config.patch(**STRICT):
        for names in (["a", "b"], ["b"], [], ["b", "a"]):
            runtime.activate(names)
            plain.activate(names)
            for inputs in ({}, {"adapter_names": ["b", "__base__", "a"]}):
                torch.testing.assert_close(logits(runtime, **inputs), logits(plain, **inputs), rtol=1e-5, atol=1e-5)


def test_what_is_activated_within_a_batch_is_on_after_it(model, tmp_path):
    runtime = sealed_runtime(model, tmp_path)
    expected = {name: logits(runtime, adapter_names=[name] * 3) for name in "ab"}

    with runtime.batch(["a"] * 3), torch.no_grad():
        runtime.activate("b")
        within = model(IDS, use_cache=False).logits

    assert torch.equal(within, expected["a"])
    assert torch.equal(logits(runtime), expected["b"])


def test_an_empty_runtime_has_nothing_to_seal(model):
    with pytest.raises(RuntimeStateError, match="nothing to seal"):
        Runtime(model).seal(max_batch=2)


def test_unsealed_again_any_adapter_is_loaded_and_several_are_on(model, tmp_path):
    runtime = sealed_runtime(model, tmp_path)
    runtime.unseal()
    more = lora_folder(tmp_path / "more", llama(num_hidden_layers=1), target_modules=["o_proj"])

    runtime.load("c", more)
    runtime.activate(["a", "c"])

    assert runtime.active == ("a", "c")


def test_threads_take_turns_in_a_sealed_runtime(model, tmp_path):
    runtime = sealed_runtime(model, tmp_path)
    expected = {name: logits(runtime, adapter_names=[name] * 3) for name in "ab"}
    found = {"a": [], "b": []}

    def work(name):
        for _ in range(5):
            found[name].append(logits(runtime, adapter_names=[name] * 3))

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert all(torch.equal(one, expected[name]) for name in "ab" for one in found[name])


def test_a_compiled_model_called_by_the_runtime_refuses_a_stale_cache(model, tmp_path):
    runtime = sealed_runtime(model, tmp_path)
    model.compile(fullgraph=True, backend="eager")
    with torch.no_grad():
        cache = runtime(IDS, adapter_names=["a"] * 3).past_key_values

        with pytest.raises(StaleCacheError, match=r"'a' \(load 1\), now 'b' \(load 2\)"):
            runtime(IDS[:, :1], past_key_values=cache, adapter_names=["b"] * 3)
