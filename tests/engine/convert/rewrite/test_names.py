"""Names as PEFT writes them, from what wrappers and other savers left."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file

from engine.compat.engines.target import parse_target
from engine.convert.rewrite.draft import draft_of
from engine.convert.rewrite.names import peft_names, with_prefix
from engine.convert.rewrite.plan import plan_rewrites
from engine.errors import RefusedError
from engine.format.adapter import read_adapter
from tests.engine.compat.small_adapter import CONFIG, tensors, write_adapter
from tests.engine.convert.rewrite.adapters import rewritten

Q = "model.layers.0.self_attn.q_proj"
NAMES = {
    f"base_model.model.{Q}.lora_A.weight": f"base_model.model.{Q}.lora_A.weight",
    f"{Q}.lora_A.weight": f"base_model.model.{Q}.lora_A.weight",
    f"base_model.model.{Q}.lora_A.default.weight": f"base_model.model.{Q}.lora_A.weight",
    f"base_model.model.{Q}.lora_B.default.bias": f"base_model.model.{Q}.lora_B.bias",
    f"base_model.model.{Q}.lora_B.bias": f"base_model.model.{Q}.lora_B.bias",
    f"{Q}.lora_A.my-adapter.weight": f"base_model.model.{Q}.lora_A.weight",
    "base_model.model.wte.lora_embedding_A.default": "base_model.model.wte.lora_embedding_A",
    "base_model.model.wte.lora_embedding_A": "base_model.model.wte.lora_embedding_A",
    f"base_model.model.{Q}.lora_magnitude_vector": f"base_model.model.{Q}.lora_magnitude_vector",
    f"base_model.model.{Q}.lora_magnitude_vector.weight": f"base_model.model.{Q}.lora_magnitude_vector.weight",
    f"base_model.model.{Q}.lora_magnitude_vector.default.weight": f"base_model.model.{Q}.lora_magnitude_vector",
    f"base_model.model.base_model.model.{Q}.lora_A.weight": f"base_model.model.{Q}.lora_A.weight",
    f"_orig_mod.base_model.model.{Q}.lora_A.weight": f"base_model.model.{Q}.lora_A.weight",
    f"module.base_model.model.{Q}.lora_A.weight": f"base_model.model.{Q}.lora_A.weight",
    "base_model.model.model.layers.0._fsdp_wrapped_module.self_attn.q_proj.lora_A.weight": (
        f"base_model.model.{Q}.lora_A.weight"
    ),
    # a model's own module of that name is not a wrapper
    "base_model.model.module.q_proj.lora_A.weight": "base_model.model.module.q_proj.lora_A.weight",
    "base_model.model.score.weight": "base_model.model.score.weight",
}


def under(tmp_path, *names):
    weights = {name: np.full((2, 2), place, np.float32) for place, name in enumerate(names)}
    return draft_of(read_adapter(write_adapter(tmp_path / "a", config=CONFIG, weights=weights)))


@pytest.mark.parametrize("name", NAMES)
def test_each_name_becomes_that_of_peft(tmp_path, name):
    assert list(peft_names(under(tmp_path, name)).tensors) == [NAMES[name]]


def test_other_types_keep_their_own_names(tmp_path):
    """VeRA's shared matrices stand outside the model."""
    weights = {"base_model.vera_A": np.ones((2, 2), np.float32)}
    facts = read_adapter(write_adapter(tmp_path / "a", config={"peft_type": "VERA"}, weights=weights))

    assert list(peft_names(draft_of(facts)).tensors) == ["base_model.vera_A"]


def test_two_tensors_never_share_a_name(tmp_path):
    draft = under(tmp_path, f"{Q}.lora_A.weight", f"base_model.model.{Q}.lora_A.weight")

    with pytest.raises(RefusedError, match=rf"would both be base_model\.model\.{Q}\.lora_A\.weight"):
        peft_names(draft)


def test_tensors_of_two_adapters_are_refused(tmp_path):
    draft = under(tmp_path, f"{Q}.lora_A.one.weight", f"{Q}.lora_A.two.weight")

    with pytest.raises(RefusedError, match="several adapters: one, two"):
        peft_names(draft)


def test_another_prefix_takes_the_place_of_pefts(tmp_path):
    draft = under(tmp_path, f"base_model.model.{Q}.lora_A.weight", "x.lora_A.weight")

    assert list(with_prefix(draft, "transformer").tensors) == [
        f"transformer.{Q}.lora_A.weight",
        "transformer.x.lora_A.weight",
    ]


@pytest.mark.parametrize("old", ["", "base_model.model.base_model.model.", "_orig_mod.base_model.model."])
def test_the_rules_that_named_them_are_silent_afterwards(tmp_path, old):
    weights = {name.replace("base_model.model.", old): one for name, one in tensors().items()}
    weights = {name.replace(".weight", ".default.weight"): one for name, one in weights.items()}
    facts = read_adapter(write_adapter(tmp_path / "a", config=CONFIG, weights=weights))
    assert facts.modules == ()

    plan = plan_rewrites(facts, parse_target("vllm"))

    assert plan.rewrites == ("names",)
    assert [module.name for module in plan.draft.facts().modules] == ["model.layers.0.mlp.up_proj", Q]


def test_the_bytes_stay(tmp_path):
    weights = {name.removeprefix("base_model.model."): one for name, one in tensors().items()}
    folder = write_adapter(tmp_path / "a", config=CONFIG, weights=weights)

    rewritten(folder, tmp_path / "b", peft_names)

    found = load_file(tmp_path / "b" / "adapter_model.safetensors")
    assert {name: one.tobytes() for name, one in found.items()} == {n: one.tobytes() for n, one in tensors().items()}
