"""The result's config: PEFT's matching rule, spelled out here, gives each module its rank and touches no other."""

import json
import re
import time

import pytest

from engine.format.configs.config import parse_config
from engine.merge.dtypes import parse_dtype, widest
from engine.merge.result.config import Adapted, result_config
from engine.merge.result.others import Extras


def config(**keys):
    return parse_config(json.dumps({"peft_type": "LORA", "target_modules": ["q"], **keys}).encode())


def targeted(result, names):
    """PEFT's rule for lists: the exclusion first, then equality or a suffix at a dot."""
    excluded = result["exclude_modules"]
    return [
        name
        for name in names
        if not (excluded and re.fullmatch(excluded, name))
        and any(name == target or name.endswith(f".{target}") for target in result["target_modules"])
    ]


def rank(result, name):
    for key, value in result["rank_pattern"].items():
        if re.match(rf"(.*\.)?({key})$", name):
            return value
    return result["r"]


def test_smaller_ranks_are_patterns_with_scaling_one():
    result = result_config([config()], [Adapted("a.q", 8), Adapted("b.q", 3)], Extras())

    assert (result["r"], result["lora_alpha"]) == (8, 8)
    assert result["rank_pattern"] == {"b.q": 3}
    assert result["alpha_pattern"] == {"b.q": 3}
    assert result["use_rslora"] is False


@pytest.mark.parametrize(
    "modules",
    [
        {"q": 2, "a.q": 3, "b.a.q": 8},
        {"q": 8, "a.q": 3, "b.a.q": 2},
        {"a.q": 2, "aXq": 8},
        {"m.1.q": 2, "m.11.q": 8, "m.1xq": 3},
        {"m[0].q": 2, "m+.q": 3, "x": 8},
    ],
)
def test_every_pattern_meets_its_module_alone(modules):
    """Also for names that end in each other, or hold characters of regular expressions."""
    result = result_config([config()], [Adapted(name, r) for name, r in modules.items()], Extras())

    assert {name: rank(result, name) for name in modules} == modules


def test_plain_targets_need_no_exclusion():
    assert result_config([config()], [Adapted("q", 2), Adapted("inner.q", 2)], Extras())["exclude_modules"] is None


@pytest.mark.parametrize(
    "parent", [{"target_modules": "q"}, {"exclude_modules": ["inner.q"]}, {"layers_to_transform": [0]}]
)
def test_short_names_spare_what_the_parents_spared(parent):
    result = result_config([config(**parent)], [Adapted("q", 2), Adapted("deep.q", 2)], Extras())

    assert targeted(result, ["q", "inner.q", "deep.q", "very.deep.q", "my_q"]) == ["q", "deep.q"]


def test_long_names_are_targets_enough():
    name = "model.layers.0.self_attn.q_proj"
    result = result_config([config(target_modules=".*q_proj")], [Adapted(name, 2)], Extras())

    assert result["exclude_modules"] is None
    assert result["target_modules"] == [name]


def test_attention_is_targeted_by_its_wrapper():
    result = result_config([config()], [Adapted("mha", 4), Adapted("mha.base_layer.out_proj", 4)], Extras())

    assert result["target_modules"] == ["mha"]


@pytest.mark.parametrize(
    ("key", "values", "expected"),
    [
        ("task_type", ("CAUSAL_LM", "CAUSAL_LM"), "CAUSAL_LM"),
        ("task_type", ("CAUSAL_LM", None), "CAUSAL_LM"),
        ("task_type", ("CAUSAL_LM", "SEQ_CLS"), None),
        ("base_model_name_or_path", (None, "gpt2"), "gpt2"),
        ("base_model_name_or_path", ("gpt2", "openai/gpt2"), "gpt2"),
        ("revision", ("main", "v2"), None),
        ("fan_in_fan_out", (False, True), True),
    ],
)
def test_keys_that_survive(key, values, expected):
    result = result_config(
        [config(**{key: value}) if value is not None else config() for value in values], [Adapted("q", 2)], Extras()
    )

    assert result[key] == expected


def test_inference_settings():
    result = result_config([config(lora_dropout=0.5, r=3, lora_alpha=7)], [Adapted("q", 2)], Extras(saved=("head",)))

    assert (result["peft_type"], result["inference_mode"], result["bias"]) == ("LORA", True, "none")
    assert (result["init_lora_weights"], result["lora_dropout"], result["modules_to_save"]) == (
        True,
        0.0,
        ["head"],
    )


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        (["BF16"], "BF16"),
        (["F16"], "F16"),
        (["F16", "BF16"], "F32"),
        (["F32", "BF16"], "F32"),
        (["F64", "F16"], "F64"),
        (["F8_E4M3"], "F16"),
        (["F8_E5M2", "BF16"], "BF16"),
    ],
)
def test_widest_dtype(dtypes, expected):
    assert widest(dtypes) == expected


@pytest.mark.parametrize("text", ["bf16", "BF16", "bfloat16", "torch.bfloat16"])
def test_spellings_of_a_dtype(text):
    assert parse_dtype(text) == "BF16"


def test_the_excluded_modules_of_many_layers_are_one_expression():
    """Listed one by one, 600 names would be longer than any stored expression may be."""
    parent = parse_config(json.dumps({"peft_type": "LORA", "target_modules": r"blocks\.\d+\.q"}).encode())

    excluded = result_config([parent], [Adapted(f"blocks.{layer}.q", 4) for layer in range(600)], Extras())[
        "exclude_modules"
    ]

    assert excluded == r"(?:.*\.(?:blocks\.\d+\.q))"


def test_names_are_data_and_no_expressions():
    """A module's name comes from a stranger's file: it neither has to be an expression nor is run as one."""
    modules = {"a(b": 2, "(a+)+b": 3, "x." + "a" * 40: 8, "[z": 4}

    result = result_config([config()], [Adapted(name, r) for name, r in modules.items()], Extras())

    assert {name: rank(result, name) for name in modules} == modules


def test_names_are_told_apart_in_time_that_grows_as_their_number():
    """Some thousands of experts, all but one of another rank: a second would be too long."""
    modules = [Adapted(f"model.layers.{n // 128}.mlp.experts.{n % 128}.up_proj", 1 + n % 7) for n in range(6144)]

    started = time.process_time()
    result = result_config([config()], modules, Extras())

    assert time.process_time() - started < 1.0
    assert len(result["rank_pattern"]) == sum(module.rank < 7 for module in modules)
    assert not any(key.startswith("^") for key in result["rank_pattern"])
