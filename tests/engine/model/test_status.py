"""What a runtime says about itself."""

import dataclasses

import pytest
import torch

from engine.model.runtime import Runtime
from tests.engine.model.live import llama, lora_folder


def test_a_status_tells_every_adapter_and_the_room_they_have(tmp_path):
    model = llama()
    plain = lora_folder(tmp_path / "plain", model, target_modules=["q_proj"], r=4)
    wide = lora_folder(
        tmp_path / "wide",
        model,
        target_modules=["q_proj"],
        r=2,
        rank_pattern={"layers.1.self_attn.q_proj": 8},
        modules_to_save=["model.norm"],
    )
    runtime = Runtime(model, slots=1)
    runtime.load("plain", plain, pinned=True)
    runtime.load("wide", wide)
    runtime.activate("plain")
    runtime.set_scale("wide", 0.5)

    status = runtime.status()

    first, second = status.adapters
    assert (first.name, first.path, first.peft_type, first.rank, first.slot, first.pinned, first.factor) == (
        "plain",
        plain,
        "LORA",
        4,
        1,
        True,
        1.0,
    )
    assert (second.name, second.rank, second.slot, second.on_host, second.pinned, second.factor) == (
        "wide",
        8,
        None,
        True,
        False,
        0.5,
    )
    assert first.nbytes == 2 * (32 + 32) * 4 * 4  # layers · (in + out) · r · bytes
    assert second.nbytes == ((32 + 32) * (2 + 8) + 32) * 4
    assert (status.active, status.merged, status.enabled, status.sealed, status.slots) == (
        ("plain",),
        (),
        True,
        False,
        1,
    )
    assert status.sites == {"linear": 2, "saved": 1}
    assert status.slot_bytes == ((32 + 32) * (4 + 8) + 32) * 4
    assert status.device_bytes == 2 * status.slot_bytes
    assert status.layer_replication is None


def test_a_status_is_a_value_that_stays(tmp_path):
    model = llama()
    runtime = Runtime(model)
    before = runtime.status()

    runtime.load("a", lora_folder(tmp_path / "a", model, layer_replication=[[0, 2], [0, 1]]))

    assert before.adapters == () and before.device_bytes == 0
    assert runtime.status().layer_replication == ((0, 2), (0, 1))
    with pytest.raises(dataclasses.FrozenInstanceError):
        before.slots = 3


def test_a_model_that_was_moved_is_told_and_followed(tmp_path):
    """Moved here: accelerate's device for a layer, as no second device is needed to see where a module computes."""
    from types import SimpleNamespace

    from engine.errors import RuntimeStateError

    ids = torch.arange(6)[None]
    model = llama()
    base = model(ids, use_cache=False).logits
    runtime = Runtime(model)
    runtime.load("a", lora_folder(tmp_path / "a", model))
    runtime.activate("a")
    layer = model.model.layers[0].mlp.down_proj

    layer._hf_hook = SimpleNamespace(execution_device="meta")
    with pytest.raises(
        RuntimeStateError, match=r"its adapters lie on cpu, the module was moved to meta; call runtime\.follow\(\)"
    ):
        model(ids)
    runtime.follow()
    assert {span.device.type for span in runtime._residence.arena.layout.spans} == {"cpu", "meta"}
    assert runtime._residence.sites["model.layers.0.mlp.down_proj"].stacks["A"].is_meta
    del layer._hf_hook
    runtime.detach()

    assert torch.equal(model(ids, use_cache=False).logits, base)
