"""Targets said by name: PEFT adapts the same modules and computes the same."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PeftModel
from transformers import LlamaForCausalLM

from engine.convert.rewrite.targets import explicit_targets, spelled_out
from engine.errors import RefusedError
from tests.engine.compat.peft_adapters import Attention, save_adapter
from tests.engine.compat.small_adapter import CONFIG, write_adapter
from tests.engine.convert.rewrite.adapters import config_of, lora, outputs, relative, rewritten, save
from tests.engine.tiny import llama

REGEX = r".*layers\.[01]\.self_attn\.(q|k)_proj"
NAMED = [f"model.layers.{layer}.self_attn.{part}_proj" for layer in (0, 1) for part in "kq"]


def computed(folder):
    torch.manual_seed(0)
    model = PeftModel.from_pretrained(llama(), folder).eval()
    assert isinstance(model.base_model.model, LlamaForCausalLM)
    adapted = sorted(name for name, one in model.base_model.model.named_modules() if hasattr(one, "lora_A"))
    with torch.no_grad():
        return adapted, model.merge_and_unload()(torch.arange(12).reshape(2, 6)).logits


CASES = {
    "a regular expression": ({"target_modules": REGEX}, NAMED),
    "an expression with an exception": (
        {"target_modules": r".*\.(q|k|v)_proj", "exclude_modules": r".*\.v_proj"}, NAMED,
    ),
    "some layers": (
        {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": "layers"},
        ["model.layers.1.self_attn.q_proj"],
    ),
    "an output layer": ({"target_modules": "lm_head"}, ["lm_head"]),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_the_same_modules_are_adapted_and_compute_the_same(tmp_path, case):
    options, expected = CASES[case]
    folder = save_adapter(llama, LoraConfig(r=4, **options), tmp_path / "a")

    done, config = rewritten(folder, tmp_path / "b", explicit_targets)

    assert config["target_modules"] == expected
    assert (config["exclude_modules"], config["layers_to_transform"], config["layers_pattern"]) == (None, None, None)
    before, after = computed(folder), computed(tmp_path / "b")
    assert before[0] == after[0] == expected
    assert torch.equal(before[1], after[1])
    assert done.rounded == 0


@pytest.mark.filterwarnings("ignore")
def test_an_attention_block_is_named_once(tmp_path):
    folder = save_adapter(Attention, LoraConfig(r=4, target_modules="mha"), tmp_path / "a")

    assert rewritten(folder, tmp_path / "b", explicit_targets)[1]["target_modules"] == ["mha"]


@pytest.mark.filterwarnings("ignore")
def test_a_random_start_of_b_is_not_left_to_a_module_selected_besides(tmp_path):
    folder = save(tmp_path / "a", lora(target_modules="lin0", init_lora_weights=False))

    config = rewritten(folder, tmp_path / "b", explicit_targets)[1]

    assert (config["target_modules"], config["init_lora_weights"]) == (["lin0"], True)
    assert relative(outputs(tmp_path / "b"), outputs(folder)) == 0


@pytest.mark.filterwarnings("ignore")
def test_a_short_name_over_a_changed_base_is_refused(tmp_path):
    folder = save(tmp_path / "a", lora(target_modules="lin0", init_lora_weights="pissa"))

    with pytest.raises(RefusedError, match="lin0: may end other modules' names, and init_lora_weights 'pissa'"):
        rewritten(folder, tmp_path / "b", explicit_targets)


def test_defaults_are_said(tmp_path):
    """PEFT's own: r 8, lora_alpha 8; the modules are those that have factors."""
    config = {"peft_type": "LORA", "target_modules": None, "r": 2}

    said = rewritten(write_adapter(tmp_path / "a", config=config), tmp_path / "b", spelled_out)[1]

    assert said == {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 8,
        "target_modules": ["model.layers.0.mlp.up_proj", "model.layers.0.self_attn.q_proj"],
    }


def test_an_adapter_without_factors_has_no_targets_to_list(tmp_path):
    folder = write_adapter(tmp_path / "a", config=CONFIG, weights={})

    with pytest.raises(RefusedError, match="no module has factors"):
        rewritten(folder, tmp_path / "b", explicit_targets)
    assert config_of(folder) == CONFIG
