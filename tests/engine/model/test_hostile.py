"""Folders that are not what they say: a typed error that names it, and nothing on the model changed."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.errors import EngineError, RefusedError
from engine.model.runtime import Runtime
from tests.engine.model.live import llama, lora_folder
from tests.engine.model.states import same_state, state

IDS = torch.arange(18).reshape(3, 6)
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    root = tmp_path_factory.mktemp("sound")
    table = {"target_modules": ["embed_tokens", "q_proj"]}
    return {name: lora_folder(root / name, llama(), **table) if name == "table" else lora_folder(root / name, llama()) for name in ("plain", "table")}  # fmt: skip


def tensors(change):
    def spoil(folder):
        save_file({name: one.contiguous() for name, one in change(load_file(folder / WEIGHTS)).items()}, folder / WEIGHTS)  # fmt: skip

    return spoil


def first(change):
    def spoil(held):
        name = next(name for name in held if "lora_A" in name)
        return held | {name: change(held[name])}

    return tensors(spoil)


def config(**settings):
    def spoil(folder):
        raw = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps(raw | settings))

    return spoil


def in_place_of_weights(make):
    def spoil(folder):
        (folder / WEIGHTS).rename(folder / "elsewhere")
        make(folder / WEIGHTS)

    return spoil


def _no_ranks(held):
    return {name: one[:0] if "lora_A" in name else one[:, :0] for name, one in held.items()}


def _module(name):
    key = f"base_model.model.{name}.lora_{{}}.weight"
    return {key.format("A"): torch.ones(4, 32), key.format("B"): torch.ones(32, 4)}


SPOILT = {
    "cut short": lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-1]),
    "one byte more": lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes() + b"x"),
    "empty": lambda folder: (folder / WEIGHTS).write_bytes(b""),
    "a header of 2**64 bytes": lambda folder: (folder / WEIGHTS).write_bytes(b"\xff" * 8 + b"{}"),
    "a link": in_place_of_weights(lambda path: path.symlink_to("elsewhere")),
    "a link out of the folder": in_place_of_weights(lambda path: path.symlink_to("/etc/passwd")),
    "a folder": in_place_of_weights(lambda path: path.mkdir()),
    "a pipe": in_place_of_weights(os.mkfifo),
    "no weights": in_place_of_weights(lambda _: None),
    "no config": lambda folder: (folder / CONFIG).unlink(),
    "a list as config": lambda folder: (folder / CONFIG).write_text("[]"),
    "a tensor of no module": tensors(lambda held: held | {"base_model.model.zzz.weight": torch.ones(2)}),
    "a module too many": tensors(lambda held: held | _module("model.layers.9.self_attn.q_proj")),
    "a prefix of a module": tensors(lambda held: held | _module("model.layers.0.self_attn.q_pro")),
    "half a pair": tensors(lambda held: dict(list(held.items())[1:])),
    "no ranks": tensors(_no_ranks),
    "no ranks, as configured": lambda folder: (tensors(_no_ranks)(folder), config(r=0)(folder)),
    "a huge rank": config(r=10**12),
    "a huge rank in a pattern": config(rank_pattern={"q_proj": 10**9}),
    "a negative rank": config(r=-4),
    "infinite": first(lambda one: one * float("inf")),
    "one NaN": first(lambda one: torch.where(one == one.max(), float("nan"), one)),
    "beyond float32": tensors(lambda held: {name: one.double() * 1e200 for name, one in held.items()}),
    "whole numbers": first(lambda one: one.int()),
    "a vector": first(lambda one: one.flatten()),
    "a stack": first(lambda one: one[None]),
    "another tensor alone": tensors(lambda _: {"a": torch.ones(1)}),
    "another type": config(peft_type="LOHA"),
    "no type": config(peft_type=7),
    "an initialisation that changed the base": config(init_lora_weights="pissa"),
    "an expression that never ends": config(target_modules="(((((a+)+)+)+)+b"),
    "layers repeated beside loaded adapters": config(layer_replication=[[0, 1], [0, 2]]),
    "dora without magnitudes": config(use_dora=True),
    "biases of factors that are not there": config(lora_bias=True),
}


@pytest.mark.parametrize("case", SPOILT)
def test_a_spoilt_folder_is_refused_and_changes_nothing(case, sound, tmp_path):
    folder = tmp_path / "spoilt"
    shutil.copytree(sound["plain"], folder)
    SPOILT[case](folder)
    runtime = Runtime(llama())
    runtime.load("a", sound["plain"])
    runtime.activate("a")
    before, status = state(runtime), runtime.status()

    for call in (lambda: runtime.load("x", folder), lambda: runtime.swap("a", folder)):
        with pytest.raises(EngineError) as error:
            call()
        assert str(error.value)

    assert same_state(state(runtime), before)
    assert runtime.status() == status


def test_missing_magnitudes_are_named_module_by_module(sound, tmp_path):
    folder = tmp_path / "dora"
    shutil.copytree(sound["plain"], folder)
    config(use_dora=True)(folder)

    with pytest.raises(RefusedError) as refused:
        Runtime(llama()).load("x", folder)

    assert [one.rule for one in refused.value.findings] == ["pair-incomplete"] * 6
    assert "q_proj: has no magnitude, which use_dora asks for" in "\n".join(
        one.message for one in refused.value.findings
    )


def test_a_changed_table_counts_also_right_after_an_adapter_of_the_same_shapes(sound, tmp_path):
    """PEFT writes the base's table along with its factors; where it is another, the adapter has it in place of it."""
    folder = tmp_path / "changed"
    shutil.copytree(sound["table"], folder)
    tensors(lambda held: {name: one + 1 if "embed_tokens.weight" in name or "base_layer" in name else one for name, one in held.items()})(folder)  # fmt: skip
    outputs = []
    for before in ((), (sound["table"],)):
        runtime = Runtime(llama())
        for place, other in enumerate(before):
            runtime.load(f"before {place}", other)
        runtime.load("changed", folder)
        runtime.activate("changed")
        with torch.no_grad():
            outputs.append(runtime(IDS).logits)
    runtime.activate("before 0")
    with torch.no_grad():
        unchanged = runtime(IDS).logits

    assert torch.equal(*outputs)
    assert not torch.equal(outputs[0], unchanged)
