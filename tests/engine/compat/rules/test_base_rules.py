"""Adapter against base: patterns, layers, tokens, norms; each rule's edges, from both sides."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest

from engine.compat.check import check_adapter
from engine.format.adapter import read_adapter
from engine.format.base import read_base
from engine.format.numbers.values import scan_values
from tests.engine.compat.rules.test_rules import TOKENS, _layers
from tests.engine.compat.small_adapter import BASE, CONFIG, P, adapter, base, tensors


def _rules(facts, **known):
    return {finding.rule for finding in check_adapter(facts, **known) if finding.severity != "skipped"}


def _config(**changes):
    return {**CONFIG, **changes}


@pytest.mark.parametrize(
    ("patterns", "rules"),
    [
        ({"alpha_pattern": {"q_proj": 3, "up_proj": 5}}, set()),
        ({"alpha_pattern": {"q_proj": 3, "self_attn.q_proj": 3}}, set()),  # whichever counts, 3 it is
        ({"alpha_pattern": {r".*\.0\..*": 3, "up_proj": 5}}, {"pattern-overlap"}),
        ({"rank_pattern": {"q_proj": 2, "self_attn.q_proj": 3}}, set()),  # sorted, and the tensor has rank 2
        ({"rank_pattern": {"self_attn.q_proj": 2, "q_proj": 3}}, {"pattern-overlap"}),  # PEFT would turn them round
        ({"rank_pattern": {"0": 2}}, {"pattern-unmatched"}),
    ],
)
def test_patterns_that_decide_by_their_order(tmp_path, patterns, rules):
    assert _rules(adapter(tmp_path, config=_config(**patterns))) & {"pattern-overlap", "pattern-unmatched"} == rules


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"alpha_pattern": {"q_proj": 1e12}}, ["model.layers.0.self_attn.q_proj"]),
        ({"alpha_pattern": {"up_proj": 0}}, ["model.layers.0.mlp.up_proj"]),
        ({"alpha_pattern": {"q_proj": 128}}, []),  # 64 times the rank of 2
        ({"lora_alpha": 1000, "alpha_pattern": {"q_proj": 1e12}}, ["lora_alpha"]),
    ],
)
def test_an_extreme_scaling_is_seen_in_a_pattern_too(tmp_path, config, said):
    findings = check_adapter(adapter(tmp_path, config=_config(**config)))

    assert [one.where for one in findings if one.rule == "scaling-extreme"] == said


def test_a_pattern_made_to_cost_time_is_passed_over(tmp_path):
    """The first key matches at once, so the file is read; the others together take longer than the bound."""
    costly = {rf"(\w|\w\w|\.)+[A-Z]{{{times}}}": 4 for times in range(1, 40)}
    config = _config(alpha_pattern={r".*": 3, **costly})
    facts = adapter(tmp_path, config=config)

    assert "pattern-overlap" not in _rules(facts)


def test_what_the_reference_library_saves_sorted_is_the_overlap(tmp_path):
    pytest.importorskip("peft")
    from peft import LoraConfig

    from tests.engine.compat.peft_adapters import Mlp, save_adapter

    config = LoraConfig(r=4, target_modules=["lin0", "head"], alpha_pattern={"lin0": 3, ".*": 5})
    folder = save_adapter(Mlp, config, tmp_path / "a")

    assert list(json.loads((folder / "adapter_config.json").read_text())["alpha_pattern"]) == [".*", "lin0"]
    assert "pattern-overlap" in _rules(read_adapter(folder))


@pytest.mark.parametrize(
    ("ranges", "rules"),
    [
        ([[0, 1], [0, 1]], set()),
        ([[0, 2]], {"replication-range"}),
        ([[1, 1], [0, 1]], {"replication-range"}),
        ([[-1, 1]], {"replication-range"}),
    ],
)
def test_repeated_layers_are_layers_of_the_base(tmp_path, ranges, rules):
    facts = adapter(tmp_path / "a", config=_config(layer_replication=ranges))
    known = base(tmp_path / "b")

    assert _rules(facts, base=known) & {"replication-range", "replication-number"} == rules


def test_an_empty_range_needs_no_base(tmp_path):
    facts = adapter(tmp_path, config=_config(layer_replication=[[3, 3]]))

    assert "replication-range" in _rules(facts)


def test_a_number_of_many_digits_is_no_layer(tmp_path):
    name = f"base_model.model.model.layers.{'9' * 5000}.q_proj.lora_"
    weights = {f"{name}A.weight": np.ones((2, 4), np.float32), f"{name}B.weight": np.ones((6, 2), np.float32)}
    facts = adapter(tmp_path / "a", config=_config(layer_replication=[[0, 1]]), weights=weights)

    assert "base-module-absent" in _rules(facts, base=base(tmp_path / "b"))


@pytest.mark.parametrize(
    ("indices", "rows", "rules"),
    [
        ([0, 9], 2, set()),
        ([9, 9, 0], 3, set()),
        ([0, 10], 2, {"token-absent"}),
        ([-1], 1, {"token-absent"}),
        ({"embed_tokens": [9]}, 1, set()),
        ({"embed_tokens": [10]}, 1, {"token-absent"}),
        ({"other": [10]}, 1, set()),
        ([1], 2, {"token-rows"}),
    ],
)
def test_tokens_have_a_row_each(tmp_path, indices, rows, rules):
    weights = {**tensors(), TOKENS: np.ones((rows, 4), dtype=np.float32)}
    facts = adapter(tmp_path / "a", config=_config(trainable_token_indices=indices), weights=weights)

    assert _rules(facts, base=base(tmp_path / "b")) & {"token-absent", "token-rows"} == rules


def test_tokens_of_a_table_that_travels_along(tmp_path):
    table = "base_model.model.model.embed_tokens.token_adapter.base_layer.weight"
    weights = {**tensors(), TOKENS: np.ones((1, 4), np.float32), table: np.ones((12, 4), np.float32)}
    facts = adapter(tmp_path / "a", config=_config(trainable_token_indices=[11]), weights=weights)

    assert "token-absent" not in _rules(facts, base=base(tmp_path / "b"))


def test_seven_norms_say_nothing_of_the_usual(tmp_path):
    config = _config(target_modules=["q_proj"])
    few, many = (adapter(tmp_path / str(count), config=config, weights=_layers(count, loud=4)) for count in (7, 8))

    assert "norm-outlier" not in _rules(few, values=scan_values(few))
    assert "norm-outlier" in _rules(many, values=scan_values(many))


def test_norms_that_all_differ_have_no_outlier(tmp_path):
    weights = _layers(12)
    loud = {name: value * 10 ** (index / 4) for index, (name, value) in enumerate(sorted(weights.items()))}
    facts = adapter(tmp_path, config=_config(target_modules=["q_proj"]), weights=loud)

    assert "norm-outlier" not in _rules(facts, values=scan_values(facts))


@pytest.mark.parametrize(("times", "fires"), [(0.99, False), (1.01, True)])
def test_a_change_beyond_its_weight(tmp_path, times, fires):
    facts = adapter(tmp_path / "a")
    values = scan_values(facts)
    q, up = "model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj"
    norms = {"layers.0.self_attn.q_proj.weight": values.norms[q] / times, "layers.0.mlp.up_proj.weight": 1e9}
    found = [one for one in check_adapter(facts, values=values, base=replace(base(tmp_path / "b"), norms=norms)) if one.rule == "norm-large"]  # fmt: skip

    assert [one.where for one in found] == ([q] if fires else [])
    assert up != q
    assert not fires or "‖ΔW‖/‖W‖ of the first is 1.01" in found[0].message


def test_a_base_without_norms_compares_none(tmp_path):
    facts = adapter(tmp_path / "a")

    assert "norm-large" not in _rules(facts, values=scan_values(facts), base=base(tmp_path / "b"))


@pytest.mark.parametrize(
    ("more", "changes"),
    [
        ({"model.layers.1.self_attn.q_proj.weight": (6, 4)}, {"layers_to_transform": [0]}),
        ({"model.layers.1.self_attn.q_proj.weight": (6, 4)}, {"exclude_modules": ["layers.1.self_attn.q_proj"]}),
        ({"model.layers.1.self_attn.q_proj.weight": (6, 4)}, {"target_modules": r"model\.layers\.0\..*(q|up)_proj"}),
        ({"model.layers.0.mlp.experts.3.up_proj.weight": (6, 4)}, {}),
        ({"model.layers.0.self_attn.q_proj.bias": (6,)}, {}),
        ({"mtp.up_proj.weight": (6, 4)}, {}),
    ],
)
def test_what_the_config_leaves_out_is_not_missing(tmp_path, more, changes):
    facts = adapter(tmp_path / "a", config=_config(**changes))

    assert "target-fraction" not in _rules(facts, base=base(tmp_path / "b", {**BASE, **more}))


@pytest.mark.parametrize("start", range(6))
def test_one_base_answers_every_selection_for_itself(tmp_path, start):
    """What one adapter's targets mean in the base is kept for the next that asks the same; here no two ask the same."""
    known = base(tmp_path / "b", {**BASE, "model.layers.1.self_attn.q_proj.weight": (6, 4)})
    asked = [
        ({}, True),
        ({"layers_to_transform": [0]}, False),
        ({"layers_to_transform": [0, 1]}, True),
        ({"exclude_modules": ["layers.1.self_attn.q_proj"]}, False),
        ({"modules_to_save": ["layers.1.self_attn"]}, False),
        ({"target_modules": r"model\.layers\.0\..*(q|up)_proj"}, False),
    ]
    for place, (changes, missing) in enumerate((*asked[start:], *asked[:start], *asked)):
        facts = adapter(tmp_path / str(place), config=_config(**changes))
        assert ("target-fraction" in _rules(facts, base=known)) is missing, changes


def test_an_adapter_below_another_name_selects_by_its_own(tmp_path):
    """The same targets and base; the second's modules lie below `transformer.`, where its expression looks."""
    known = base(tmp_path / "b", {**BASE, "model.layers.1.self_attn.q_proj.weight": (6, 4)})
    config = _config(target_modules=r"model\.layers\.\d\..*(q|up)_proj")
    moved = {name.replace("model.model.layers", "model.transformer.layers"): held for name, held in tensors().items()}

    assert "target-fraction" in _rules(adapter(tmp_path / "a", config=config), base=known)
    assert "target-fraction" not in _rules(adapter(tmp_path / "m", weights=moved, config=config), base=known)


def test_an_expression_selects_by_the_whole_name(tmp_path):
    facts = adapter(tmp_path / "a", config=_config(target_modules=r"model\.layers\.\d+\..*(q|up)_proj"))
    known = base(tmp_path / "b", {**BASE, "model.layers.1.mlp.up_proj.weight": (8, 4)})

    assert "target-fraction" in _rules(facts, base=known)


def test_layers_beyond_the_models_own_are_not_missing(tmp_path):
    """Checkpoints of models with a prediction head hold a layer that transformers does not build."""
    known = base(tmp_path / "b", {**BASE, "model.layers.1.mlp.up_proj.weight": (8, 4)}, num_hidden_layers=1)

    assert "target-fraction" not in _rules(adapter(tmp_path / "a"), base=known)


@pytest.mark.parametrize(
    ("model_type", "stated", "shape", "fires"),
    [
        ("gpt2", True, (4, 6), False),
        ("gpt2", False, (4, 6), True),
        ("gpt2", False, (4, 4), True),
        ("gpt2", True, (4, 4), False),
        ("llama", True, (6, 4), True),
        ("llama", False, (4, 4), False),
        ("llama", True, (4, 4), True),
    ],
)
def test_fan_in_fan_out_is_how_the_family_stores_weights(tmp_path, model_type, stated, shape, fires):
    side = "base_model.model.h.0.c_attn.lora_"
    rows, columns = shape if model_type == "gpt2" else shape[::-1]
    weights = {f"{side}A.weight": np.ones((2, rows), np.float32), f"{side}B.weight": np.ones((columns, 2), np.float32)}
    facts = adapter(tmp_path / "a", config=_config(target_modules=["c_attn"], fan_in_fan_out=stated), weights=weights)
    known = base(tmp_path / "b", {"transformer.h.0.c_attn.weight": shape}, model_type=model_type)

    assert ("target-orientation" in _rules(facts, base=known)) == fires


@pytest.mark.parametrize(
    ("shapes", "config", "fires"),
    [
        (BASE, {"tie_word_embeddings": True}, True),
        (BASE, {"tie_word_embeddings": False}, False),
        (BASE, {}, False),
        ({name: shape for name, shape in BASE.items() if name != "lm_head.weight"}, {"architectures": ["LlamaForCausalLM"]}, True),
        ({name: shape for name, shape in BASE.items() if name != "lm_head.weight"}, {"architectures": ["LlamaModel"]}, False),
    ],
)  # fmt: skip
def test_a_tied_table_is_said(tmp_path, shapes, config, fires):
    head = "base_model.model.lm_head.lora_"
    weights = {**tensors(), f"{head}A.weight": np.ones((2, 4), np.float32), f"{head}B.weight": np.ones((10, 2), np.float32)}  # fmt: skip
    facts = adapter(tmp_path / "a", config=_config(target_modules=["q_proj", "up_proj", "lm_head"]), weights=weights)

    assert ("embedding-tied" in _rules(facts, base=base(tmp_path / "b", shapes, **config))) == fires


def test_kasa_changes_the_base_too(tmp_path):
    assert "init-changed-base" in _rules(adapter(tmp_path, config=_config(kasa_config={"beta": 0.1})))


NEW = {
    "token-rows", "token-absent", "replication-range", "replication-number", "norm-outlier", "norm-large",
    "pattern-overlap", "pattern-unmatched", "target-unused", "target-fraction", "target-orientation", "dtype-unusual",
}  # fmt: skip


def _cases():
    pytest.importorskip("peft")
    from tests.engine.compat.peft_adapters import CASES

    return CASES


def test_the_reference_library_trips_none_of_them(tmp_path):
    """Tied tables and rsLoRA are said of adapters that have them, and only there."""
    from tests.engine.compat.peft_adapters import save_adapter, save_base

    bases = {}
    for name, (make, base_make, config) in _cases().items():
        facts = read_adapter(save_adapter(make, copy.deepcopy(config), tmp_path / name))
        if base_make is not None and base_make not in bases:
            bases[base_make] = read_base(save_base(base_make, tmp_path / f"base-{len(bases)}"))
        found = _rules(facts, values=scan_values(facts), base=bases.get(base_make))

        assert found & NEW == set(), name
        assert ("embedding-tied" in found) == (name.startswith("tied-") or name == "gpt2"), name
        assert ("scaling-rslora" in found) == (name == "rslora"), name


def test_nothing_of_it_reads_a_file(tmp_path):
    facts, known = adapter(tmp_path / "a"), base(tmp_path / "b")
    values = scan_values(facts)
    for folder in ("a", "b"):
        for file in (tmp_path / folder).iterdir():
            file.unlink()

    assert P in facts.modules[0].a_key
    assert _rules(facts, values=values, base=known) == set()
