"""Images of one class under torch.compile in a sealed runtime: swapped without compiling anew; others told by name."""

import pytest
import torch
import torch._dynamo
from torch._dynamo.exc import RecompileError

from engine.errors import RefusedError, SealedError
from engine.materialize.hotswap import write_images
from engine.model.runtime import Runtime
from tests.engine.materialize.hotswap.sets import IDS, folders, mapped, small
from tests.engine.model.live import llama
from tests.engine.model.states import same_state, state

STRICT = {"error_on_recompile": True, "inline_inbuilt_nn_modules": False}
SETS = {
    "ranks and targets": ({"r": 2}, {"r": 5, "target_modules": ["q_proj", "o_proj"], "use_rslora": True}, {"r": 8}),
    "DoRA": ({"r": 2, "use_dora": True}, {"r": 5}, {"r": 3, "use_dora": True, "target_modules": ["q_proj"]}),
    "biases of B": ({"r": 2, "lora_bias": True}, {"r": 5}, {"r": 3}),
}

CASES = [pytest.param(case, marks=[] if case == "DoRA" else [pytest.mark.slow]) for case in SETS]


def logits(call, **inputs):
    with torch.no_grad():
        return call(input_ids=IDS, use_cache=False, **inputs).logits


@pytest.mark.parametrize("case", CASES)
def test_any_image_of_the_class_runs_what_was_compiled_with_the_bits_of_its_folder(case, tmp_path):
    model = small()
    adapters = folders(tmp_path, model, *SETS[case])
    write_images(adapters, tmp_path / "set", target_rank=8)
    sides = []
    for places in (dict.fromkeys(adapters, tmp_path / "set"), adapters):
        torch._dynamo.reset()
        runtime = Runtime(small(), slots=4, target_rank=8)
        if places is adapters:
            for name in adapters:  # so that there is room for all
                runtime.load(name, adapters[name])
            runtime.unload("b")
            runtime.unload("c")
        else:
            runtime.load("a", places["a"])
        runtime.seal(max_batch=2)
        if places is not adapters:  # what is compiled computes what it was compiled from
            runtime.model.compile(fullgraph=True, backend="eager")
        found = []
        with torch._dynamo.config.patch(**STRICT):
            for name in "abcab":
                runtime.swap("a", runtime.prepare(places[name], image=name if places is not adapters else None))
                runtime.activate("a")
                found += [logits(runtime), logits(runtime, adapter_names=["a", "__base__"])]
            for name in "bc":
                runtime.load(name, places[name])
                found.append(logits(runtime, adapter_names=[name, "a"]))
        sides.append(found)
        if places is not adapters:
            assert all(mapped(runtime, name) for name in "abc")

    assert all(torch.equal(one, other) for one, other in zip(*sides, strict=True))
    assert not torch.equal(sides[0][0], sides[0][2])


def test_a_set_makes_room_for_all_of_its_adapters_with_the_first(tmp_path):
    adapters = folders(
        tmp_path, small(), {"r": 2, "target_modules": ["q_proj"]}, {"r": 8, "target_modules": ["up_proj"]}
    )
    write_images(adapters, tmp_path / "set")
    by_file, by_folder = Runtime(small(), slots=2), Runtime(small(), slots=2)
    by_file.load("a", tmp_path / "set")
    by_folder.load("a", adapters["a"])
    for runtime in (by_file, by_folder):
        runtime.seal(max_batch=1)

    by_file.load("b", tmp_path / "set")

    assert by_file.adapters == ("a", "b")
    with pytest.raises(SealedError, match="up_proj"):
        by_folder.load("b", adapters["b"])


def test_the_control_a_foreign_class_in_an_open_runtime_is_compiled_anew(tmp_path):
    adapters = folders(tmp_path, small(), {"r": 2}, {"r": 2, "target_modules": ["o_proj"]})
    for name, path in adapters.items():
        write_images({name: path}, tmp_path / f"set {name}")
    torch._dynamo.reset()
    runtime = Runtime(small(), slots=2)
    runtime.load("a", tmp_path / "set a")
    runtime.seal(max_batch=2)
    runtime.model.compile(fullgraph=True, backend="eager")
    with torch._dynamo.config.patch(**STRICT):
        logits(runtime, adapter_names=["a"] * 2)
        runtime.unseal()
        runtime.load("b", tmp_path / "set b")
        runtime.seal(max_batch=2)

        with pytest.raises(RecompileError):
            logits(runtime, adapter_names=["a"] * 2)


def sealed_with_two(tmp_path):
    """A sealed runtime with two adapters, one active, what it is, and what it computes."""
    adapters = folders(tmp_path, small(), {"r": 2}, {"r": 4})
    write_images(adapters, tmp_path / "set")
    runtime = Runtime(small(), slots=3)
    for name in adapters:
        runtime.load(name, tmp_path / "set")
    runtime.seal(max_batch=2)
    runtime.activate("b")
    return runtime


FOREIGN = {
    "a larger rank": ({"r": 5}, SealedError, "no room for 3 modules"),
    "other modules": ({"r": 2, "target_modules": ["o_proj", "up_proj"]}, SealedError, "no room for 2 modules.*up_proj|o_proj"),
    "another role": ({"r": 2, "use_dora": True}, SealedError, "no room for 3 modules"),
}  # fmt: skip


@pytest.mark.parametrize("case", FOREIGN)
@pytest.mark.parametrize("call", ["load", "swap"])
def test_a_class_without_room_in_a_sealed_runtime_is_refused_and_every_slot_keeps_its_bits(case, call, tmp_path):
    settings, error, told = FOREIGN[case]
    runtime = sealed_with_two(tmp_path)
    (tmp_path / "more").mkdir()
    write_images(folders(tmp_path / "more", small(), settings), tmp_path / "foreign")
    before, status, expected = state(runtime), runtime.status(), logits(runtime)

    with pytest.raises(error, match=told) as raised:
        getattr(runtime, call)("a" if call == "swap" else "new", tmp_path / "foreign")

    assert same_state(state(runtime), before)
    assert runtime.status() == status
    assert torch.equal(logits(runtime), expected)
    assert len(raised.value.missing) == int(told.split()[3])


BASES = {
    "another width": ({"hidden_size": 16}, {"q_proj", "v_proj", "down_proj"}, "expected .*16"),
    "fewer layers": ({"num_hidden_layers": 1}, {"layers.1"}, "the model has no such module"),
    "another inner width": ({"intermediate_size": 40}, {"down_proj"}, "down_proj"),
}


@pytest.mark.parametrize("case", BASES)
def test_a_base_that_does_not_fit_is_refused_with_every_module_of_the_whole_set(case, tmp_path):
    """`b`'s own modules too, though `a` is loaded."""
    changes, named, told = BASES[case]
    adapters = folders(
        tmp_path,
        llama(),
        {"r": 2, "target_modules": ["q_proj", "down_proj"]},
        {"r": 2, "target_modules": ["v_proj", "down_proj"]},
    )
    write_images(adapters, tmp_path / "set")
    runtime = Runtime(llama(**changes), slots=2)
    before = state(runtime)

    with pytest.raises(RefusedError, match=told) as raised:
        runtime.load("a", tmp_path / "set")

    places = [finding.where or "" for finding in raised.value.findings]
    text = " ".join(finding.message for finding in raised.value.findings)
    expected = {path for path in ("q_proj", "v_proj", "down_proj") if any(path in one for one in named)} or {
        "q_proj",
        "v_proj",
        "down_proj",
    }
    assert all(path in text for path in expected)
    layers = 1 if case == "fewer layers" else 2
    per_layer = {"another width": 3, "fewer layers": 3, "another inner width": 1}[case]
    assert len({place.split(".lora_")[0].removeprefix("base_model.model.") for place in places}) == layers * per_layer
    assert same_state(state(runtime), before) and runtime.adapters == ()
