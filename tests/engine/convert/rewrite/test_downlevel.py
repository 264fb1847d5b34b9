"""A configuration for an older PEFT: what says nothing goes, what changes the function is refused."""

from __future__ import annotations

import functools

import pytest

from engine.compat.engines.check import check_for
from engine.compat.engines.target import parse_target
from engine.convert.rewrite.downlevel import down_level
from engine.convert.rewrite.plan import plan_rewrites
from engine.errors import RefusedError
from engine.format.adapter import read_adapter
from tests.engine.compat.small_adapter import CONFIG, write_adapter
from tests.engine.convert.rewrite.adapters import config_of, lora, outputs, relative, rewritten, save

# LoraConfig of 0.10.0, read from its wheel
KEYS_0_10 = {
    *("auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "revision", "task_type", "r"),
    *("target_modules", "lora_alpha", "lora_dropout", "fan_in_fan_out", "bias", "use_rslora", "modules_to_save"),
    *("init_lora_weights", "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern"),
    *("megatron_config", "megatron_core", "loftq_config", "use_dora", "layer_replication"),
}
LOST = {
    "lora_bias": True,
    "trainable_token_indices": [1],
    "target_parameters": ["experts.up"],
    "alora_invocation_tokens": [1, 2],
    "use_qalora": True,
    "kasa_config": {"beta": 1},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", [{}, {"init_lora_weights": "orthogonal"}, {"exclude_modules": ["lin1"]}])
def test_what_the_newest_peft_writes_is_read_by_the_oldest(tmp_path, options):
    folder = save(tmp_path / "a", lora(use_rslora=True, rank_pattern={"lin0": 2}, **options))
    assert not config_of(folder).keys() <= KEYS_0_10
    target = parse_target("peft@0.10.0")
    facts = read_adapter(folder)
    assert [finding.rule for finding in check_for(facts, target)][:1] == ["peft-keys"]

    plan = plan_rewrites(facts, target)
    rewritten(folder, tmp_path / "b", lambda _draft: plan.draft)

    assert config_of(tmp_path / "b").keys() <= KEYS_0_10
    assert check_for(read_adapter(tmp_path / "b"), target) == ()
    assert relative(outputs(tmp_path / "b"), outputs(folder)) == 0


@pytest.mark.parametrize("key", LOST)
def test_a_key_that_changes_the_function_is_refused_by_name(tmp_path, key):
    folder = write_adapter(tmp_path / "a", config={**CONFIG, key: LOST[key]})

    with pytest.raises(RefusedError, match=f"{key}: PEFT 0.10|{key}: peft 0.10") as caught:
        rewritten(folder, tmp_path / "b", functools.partial(down_level, target=parse_target("peft@0.10.0")))

    assert [finding.where for finding in caught.value.findings] == [key]


def test_defaults_unknown_keys_and_what_training_alone_read_go(tmp_path):
    said = {"lora_bias": False, "eva_config": {"rho": 2.0}, "somebody's": [1], "qalora_group_size": 16}
    folder = write_adapter(tmp_path / "a", config={**CONFIG, **said})

    config = rewritten(folder, tmp_path / "b", functools.partial(down_level, target=parse_target("peft@0.10")))[1]

    assert config == CONFIG


def test_an_exception_becomes_names(tmp_path):
    """0.10 knows no exclude_modules."""
    config = {**CONFIG, "target_modules": ["q_proj", "up_proj", "k_proj"], "exclude_modules": ["k_proj"]}
    folder = write_adapter(tmp_path / "a", config=config)

    said = rewritten(folder, tmp_path / "b", functools.partial(down_level, target=parse_target("peft@0.10")))[1]

    assert said["target_modules"] == ["model.layers.0.mlp.up_proj", "model.layers.0.self_attn.q_proj"]
    assert "exclude_modules" not in said


def test_a_release_that_knows_all_keys_changes_nothing(tmp_path):
    assert (
        plan_rewrites(read_adapter(write_adapter(tmp_path / "a", config=CONFIG)), parse_target("peft@0.21.2")).rewrites
        == ()
    )


def test_a_type_that_the_release_lacks_is_refused(tmp_path):
    folder = write_adapter(tmp_path / "a", config={"peft_type": "MISS", "target_modules": ["x"]}, weights={})

    with pytest.raises(RefusedError, match="no peft_type 'MISS'"):
        rewritten(folder, tmp_path / "b", functools.partial(down_level, target=parse_target("peft@0.10")))
