"""Every rule fires on the damage it is for, names it, and on nothing else."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.compat.check import MOST_PER_RULE, check_adapter
from engine.compat.finding import worst_status
from engine.compat.rules.table import RULES, describe_rules
from engine.format.numbers.values import scan_values
from tests.engine.compat.small_adapter import BASE, CONFIG, P, adapter, base, tensors

Q_A, Q_B = f"{P}self_attn.q_proj.lora_A.weight", f"{P}self_attn.q_proj.lora_B.weight"
UP_A, UP_B = f"{P}mlp.up_proj.lora_A.weight", f"{P}mlp.up_proj.lora_B.weight"


def _check(tmp_path, *, config=None, weights=None, shapes=None, files=(), base_known=True, **base_config):
    facts = adapter(tmp_path / "adapter", config=config, weights=weights)
    return check_adapter(
        facts,
        values=scan_values(facts),
        base=base(tmp_path / "base", shapes, **base_config),
        base_known=base_known,
        files=files,
    )


def test_a_sound_adapter_has_no_finding(tmp_path):
    assert _check(tmp_path) == ()


def _with(**changes):
    return {**CONFIG, **changes}


def _zeros(*shape):
    return np.zeros(shape, dtype=np.float32)


def _ones(*shape):
    return np.ones(shape, dtype=np.float32)


def _damaged(**changes):
    """The tensors, some replaced; None takes one away."""
    return {name: value for name, value in {**tensors(), **changes}.items() if value is not None}


def _nan():
    values = tensors()[Q_A].copy()
    values[0, 1], values[1, 2] = np.nan, np.inf
    return values


def _layers(count, loud=None):
    """q_proj of so many layers, one of them a thousand times louder."""
    generator = np.random.default_rng(3)
    return {
        f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora_{side}.weight": generator.standard_normal(
            shape
        ).astype(np.float32)
        * (1000 if (layer, side) == (loud, "B") else 1)
        for layer in range(count)
        for side, shape in (("A", (2, 4)), ("B", (6, 2)))
    }


def _layer_shapes(count):
    return {f"model.layers.{layer}.self_attn.q_proj.weight": (6, 4) for layer in range(count)}


TOKENS = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"

# rule -> (what is damaged, `where`, words of the message)
DAMAGE = {
    "pair-incomplete": ({"weights": _damaged(**{Q_B: None})}, "model.layers.0.self_attn.q_proj", "expected both LoRA factors A and B, found only base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"),
    "tensor-unmatched": ({"weights": _damaged(**{f"{P}mlp.down_proj.weight": _ones(4, 8)})}, f"{P}mlp.down_proj.weight", "nothing in adapter_config.json explains it"),
    "shape-inner": ({"weights": _damaged(**{UP_B: _ones(8, 3)})}, UP_B, "expected 2 columns to match base_model.model.model.layers.0.mlp.up_proj.lora_A.weight (2, 4), found (8, 3)"),
    "rank-mismatch": ({"config": _with(rank_pattern={"up_proj": 3})}, UP_A, "expected rank 3 (r and rank_pattern in the config), found (2, 4)"),
    "shape-extra": ({"config": _with(use_dora=True), "weights": _damaged(**{f"{P}self_attn.q_proj.lora_magnitude_vector": _ones(5), f"{P}mlp.up_proj.lora_magnitude_vector": _ones(8)})}, f"{P}self_attn.q_proj.lora_magnitude_vector", "expected 6 numbers"),
    "value-nonfinite": ({"weights": _damaged(**{Q_A: _nan()})}, Q_A, "found 2 NaN or Inf among 8"),
    "base-module-absent": ({"shapes": {name: shape for name, shape in BASE.items() if "up_proj" not in name}}, "model.layers.0.mlp.up_proj", "the base has no module of this name"),
    "base-prefix": ({"architectures": ["LlamaForCausalLM"], "weights": {name.replace("model.model.", "model.model.model.", 1): value for name, value in tensors().items()}}, "model.model.layers.0.mlp.up_proj", "2 of 2 modules are not below model., where the base's class has its layers (LlamaForCausalLM)"),
    "base-shape": ({"shapes": {**BASE, "model.layers.0.mlp.up_proj.weight": (8, 5)}}, UP_A, "fit a weight of shape (8, 4), the base's is (8, 5)"),
    "base-copy-shape": ({"config": _with(bias="all"), "shapes": {**BASE, "model.norm.bias": (4,)}, "weights": _damaged(**{"base_model.model.model.norm.bias": _ones(5)})}, "base_model.model.model.norm.bias", "expected (4) as in the base, found (5)"),
    "unsafe-megatron-config": ({"config": _with(megatron_config={"a": 1})}, "megatron_config", "expected null"),
    "unsafe-megatron-core": ({"config": _with(megatron_core="os")}, "megatron_core", "expected 'megatron.core', found 'os'"),
    "unsafe-auto-map": ({"config": _with(auto_map={"AutoModel": "evil.Evil"})}, "auto_map", "names code to import"),
    "unsafe-remote-code": ({"config": _with(runtime_config={"x": [{"trust_remote_code": True}]})}, "runtime_config.x[0].trust_remote_code", "found True"),
    "value-zero": ({"weights": _damaged(**{Q_B: _zeros(6, 2)})}, "model.layers.0.self_attn.q_proj", "1 of 2 modules add nothing"),
    "base-resized": ({"config": _with(modules_to_save=["lm_head"]), "weights": _damaged(**{"base_model.model.lm_head.weight": _ones(12, 4)})}, "base_model.model.lm_head.weight", "12 rows, the base has 10"),
    "tensor-prefix": ({"weights": {name.removeprefix("base_model.model."): value for name, value in tensors().items()}}, "model.layers.0.mlp.up_proj.lora_A.weight", "4 of 4 tensor names lack"),
    "tensor-none": ({"weights": {}}, "adapter_model.safetensors", "holds no tensor"),
    "unsafe-library": ({"config": _with(auto_mapping={"base_model_class": "Net", "parent_library": "__main__"})}, "auto_mapping.parent_library", "found '__main__'"),
    "unsafe-kernel": ({"config": _with(_attn_implementation_internal="evil/kernel")}, "_attn_implementation_internal", "evil/kernel"),
    "unsafe-pipelines": ({"config": _with(custom_pipelines={"x": {"impl": "evil.P"}})}, "custom_pipelines", "names pipeline code"),
    "unsafe-cache-path": ({"config": _with(corda_config={"cache_file": "/tmp/x.pt"})}, "corda_config.cache_file", "found '/tmp/x.pt'"),
    "unsafe-tokenizer-arguments": ({"config": {"peft_type": "PROMPT_TUNING", "base_model_name_or_path": "team/base", "prompt_tuning_init": "TEXT", "tokenizer_kwargs": {"a": 1}}, "weights": {"prompt_embeddings": _ones(3, 4)}}, "tokenizer_kwargs", "beside prompt_tuning_init TEXT"),
    "base-local-path": ({"config": _with(base_model_name_or_path="/home/me/llama")}, "base_model_name_or_path", "found an absolute path: '/home/me/llama'"),
    "tokenizer-local-path": ({"config": _with(tokenizer_name_or_path="../tok")}, "tokenizer_name_or_path", "found a relative path"),
    "revision-moves": ({"config": _with(revision="main")}, "revision", "expected a 40-digit commit, found 'main'"),
    "pattern-targets": ({"config": _with(target_modules=r".*\.(q_proj|up_proj)")}, "target_modules", "a regular expression"),
    "type-unknown": ({"config": {"peft_type": "FOO", "base_model_name_or_path": "team/base"}}, "peft_type", "found 'FOO'"),
    "key-unknown": ({"config": _with(zebra=1)}, "zebra", "keys that peft 0.21.2 ignores: zebra"),
    "key-duplicate": ({"config": json.dumps(CONFIG)[:-1] + ', "r": 2}'}, "r", "keys that stand twice"),
    "config-large": ({"config": json.dumps(CONFIG) + " " * 1_000_000}, None, "expected at most 1000000"),
    "embedding-replaced": ({"config": _with(modules_to_save=["model.embed_tokens"])}, "modules_to_save", "embed_tokens"),
    "lora-bias": ({"config": _with(lora_bias=True)}, "lora_bias", "lora_bias is on"),
    "target-parameters": ({"config": _with(target_parameters=["experts.up"])}, "target_parameters", "experts.up"),
    "layer-replication": ({"config": _with(layer_replication=[[0, 1]])}, "layer_replication", "repeats layers"),
    "init-changed-base": ({"config": _with(init_lora_weights="OLoRA")}, "init_lora_weights", "OLoRA"),
    "rank-large": ({"config": _with(rank_pattern={"q_proj": 600}), "weights": _damaged(**{Q_A: _ones(600, 4), Q_B: _ones(6, 600)})}, "model.layers.0.self_attn.q_proj", "the largest is 600"),
    "scaling-extreme": ({"config": _with(lora_alpha=1000)}, "lora_alpha", "1000 / 2"),
    "token-rows": ({"config": _with(trainable_token_indices=[1, 5]), "weights": _damaged(**{TOKENS: _ones(3, 4)})}, TOKENS, "expected 2 rows, one for each of trainable_token_indices, found 3"),
    "token-absent": ({"config": _with(trainable_token_indices=[1, 10]), "weights": _damaged(**{TOKENS: _ones(2, 4)})}, "trainable_token_indices", "token 10 is none of the 10 rows"),
    "replication-range": ({"config": _with(layer_replication=[[0, 1], [0, 3]])}, "layer_replication", "(0, 3) goes beyond the base, which has 1 layers"),
    "replication-number": ({"config": _with(layer_replication=[[0, 2]], target_modules=["q_proj"]), "weights": _layers(3), "shapes": _layer_shapes(3)}, "model.layers.2.self_attn.q_proj", "layer_replication makes 2 layers, expected a number below 2, found 2"),
    "norm-outlier": ({"config": _with(target_modules=["q_proj"]), "weights": _layers(9, loud=4), "shapes": _layer_shapes(9)}, "model.layers.4.self_attn.q_proj", "1 of 9 modules change far more"),
    "pattern-overlap": ({"config": _with(alpha_pattern={"q_proj": 3, "self_attn.q_proj": 5})}, "alpha_pattern.q_proj", "'q_proj' (3) and 'self_attn.q_proj' (5) both match model.layers.0.self_attn.q_proj"),
    "pattern-unmatched": ({"config": _with(rank_pattern={"k_proj": 3})}, "rank_pattern.k_proj", "keys that match no adapted module: k_proj"),
    "target-unused": ({"config": _with(target_modules=["q_proj", "up_proj", ".*k_proj"])}, "target_modules", "no tensor adapts .*k_proj; signs of regular expressions are taken as letters"),
    "target-fraction": ({"shapes": {**BASE, "model.layers.1.self_attn.q_proj.weight": (6, 4)}}, "layers.1.self_attn.q_proj", "1 of 3 modules that target_modules selects in the base have no factors (67 % have)"),
    "target-orientation": ({"config": _with(fan_in_fan_out=True)}, "fan_in_fan_out", "expected false, for weights stored (out, in), found true"),
    "embedding-tied": ({"config": _with(modules_to_save=["lm_head"]), "weights": _damaged(**{"base_model.model.lm_head.weight": _ones(10, 4)}), "tie_word_embeddings": True}, "lm_head", "the adapter changes lm_head"),
    "dtype-unusual": ({"weights": _damaged(**{Q_A: np.ones((2, 4), dtype=np.float64)})}, Q_A, "1 factors: expected F32, F16 or BF16, found F64"),
    "scaling-rslora": ({"config": _with(use_rslora=True)}, "use_rslora", "which is 1.41 times lora_alpha / r"),
    "file-template": ({"files": ("README.md", "chat_template.jinja")}, "chat_template.jinja", "chat_template.jinja"),
    "file-code": ({"files": ("README.md", "modeling_x.py", "a/b.PKL")}, "a/b.PKL", "a/b.PKL, modeling_x.py"),
    "value-unscanned": ({"weights": _damaged(**{Q_A: np.ones((2, 4), dtype=np.complex64)})}, Q_A, "1 tensors"),
    "base-quantized": ({"quantization_config": {"quant_method": "gptq"}}, None, "quantised (gptq)"),
    "base-renamed": ({"shapes": {"vit.encoder.layer.0.mlp.weight": (8, 4)}, "model_type": "vit"}, None, "checkpoints of vit hold other names"),
    "revision-none": ({"config": _with(revision=None)}, "revision", "none given"),
    "inference-mode": ({"config": _with(inference_mode=False)}, "inference_mode", "inference_mode is false"),
    "dtype-mixed": ({"weights": _damaged(**{Q_A: np.ones((2, 4), dtype=np.float16)})}, None, "F16, F32"),
    "rank-oversized": ({"config": _with(r=5), "weights": _damaged(**{Q_A: _ones(5, 4), Q_B: _ones(6, 5), UP_A: _ones(5, 4), UP_B: _ones(8, 5)})}, "model.layers.0.mlp.up_proj", "rank 5 exceeds its layer's smaller side 4"),
}  # fmt: skip

# Fired together with another rule by the same damage, rightly.
ACCOMPANIED = {
    "rank-large": {"rank-oversized", "scaling-extreme"},
    "value-unscanned": {"dtype-mixed", "dtype-unusual"},
    "dtype-unusual": {"dtype-mixed"},
    "replication-range": {"layer-replication"},
    "replication-number": {"layer-replication"},
    "embedding-tied": {"embedding-replaced"},
    "base-resized": {"embedding-replaced"},
    "unsafe-kernel": {"key-unknown"},
    "unsafe-auto-map": {"key-unknown"},
    "unsafe-pipelines": {"key-unknown"},
    "tokenizer-local-path": {"key-unknown"},
    "unsafe-tokenizer-arguments": {"revision-none"},
    "type-unknown": {"revision-none"},
}


@pytest.mark.parametrize("rule", DAMAGE)
def test_the_rule_fires_on_its_damage_and_no_other_does(tmp_path, rule):
    damage, where, words = DAMAGE[rule]

    findings = _check(tmp_path, **damage)

    fired = [finding for finding in findings if finding.rule == rule]
    assert fired, findings
    assert fired[0].where == where
    assert words in fired[0].message
    assert fired[0].severity == {row.id: row.severity for row in RULES}[rule]
    assert {finding.rule for finding in findings} - {rule} == ACCOMPANIED.get(rule, set())


def test_every_rule_has_planted_damage():
    elsewhere = {
        "base-unknown",
        "base-unprinted",
        "licence-missing",
        "licence-unknown",
        "licence-of-base",
        "norm-large",
    }

    assert DAMAGE.keys() | elsewhere == {rule.id for rule in RULES}


def test_rule_ids_are_unique_and_spelled_alike():
    ids = [rule.id for rule in RULES]

    assert len(set(ids)) == len(ids)
    assert all(part.isalpha() and part.islower() for rule_id in ids for part in rule_id.split("-"))


def test_the_page_of_rules_is_the_table():
    page = Path(__file__).parents[4] / "engine" / "compat" / "RULES.md"

    assert page.read_text(encoding="utf-8").endswith("\n\n" + describe_rules())


def test_an_unknown_base_is_one_warning_and_its_rules_are_skipped(tmp_path):
    facts = adapter(tmp_path)

    findings = check_adapter(facts, values=scan_values(facts), base_known=False)

    assert {finding.rule for finding in findings if finding.severity == "skipped"} == {
        rule.id for rule in RULES if rule.needs == "base"
    }
    assert [(finding.rule, finding.severity, finding.fix) for finding in findings if finding.severity != "skipped"] == [
        ("base-unknown", "warning", "adapters base add PATH --name NAME")
    ]
    assert worst_status(findings) == "warn"


def test_a_config_without_a_base_is_a_warning_even_if_nobody_asked(tmp_path):
    findings = check_adapter(adapter(tmp_path, config=_with(base_model_name_or_path=None)))

    assert [finding.message for finding in findings if finding.rule == "base-unknown"] == [
        "the config names no base model: nothing could be compared with it"
    ]


def test_a_base_known_by_its_config_alone_is_said(tmp_path):
    facts = adapter(tmp_path / "a")
    known = replace(base(tmp_path / "b"), fingerprint=None)

    assert [(f.rule, f.severity) for f in check_adapter(facts, base=known)][-1:] == [("base-unprinted", "info")]


def test_values_not_read_are_skipped(tmp_path):
    findings = check_adapter(adapter(tmp_path / "a"), base=base(tmp_path / "b"))

    assert [(f.rule, f.severity) for f in findings] == [
        ("value-nonfinite", "skipped"),
        ("value-zero", "skipped"),
        ("norm-outlier", "skipped"),
        ("norm-large", "skipped"),
        ("value-unscanned", "skipped"),
    ]


def test_a_copy_of_another_width_is_no_resize(tmp_path):
    weights = _damaged(**{"base_model.model.lm_head.weight": _ones(12, 5)})

    found = {finding.rule for finding in _check(tmp_path, config=_with(modules_to_save=["lm_head"]), weights=weights)}

    assert found == {"base-copy-shape", "embedding-replaced"}


def test_many_places_are_cut_with_a_word(tmp_path):
    weights = {f"base_model.model.model.layers.{n}.self_attn.q_proj.lora_A.weight": _ones(2, 4) for n in range(30)}

    found = [f for f in check_adapter(adapter(tmp_path, weights=weights)) if f.rule == "pair-incomplete"]

    assert len(found) == MOST_PER_RULE + 1
    assert found[-1].message == "and more places; the first 20 are listed"


@pytest.mark.parametrize(
    "name", ["/srv/llama", "~/llama", "../llama", "./llama", "models/../../x", r"C:\models\x", "C:/models/x", r"\\host\share", "//host/share", "https://host/x", "s3://bucket/x", "file:x", "$HOME/x", "${MODELS}", "%USERPROFILE%", "a/b/c", "has space/x"]
)  # fmt: skip
def test_places_are_not_names_of_a_base(tmp_path, name):
    found = check_adapter(adapter(tmp_path, config=_with(base_model_name_or_path=name)), base_known=True)

    assert "base-local-path" in {finding.rule for finding in found}


@pytest.mark.parametrize("name", ["gpt2", "meta-llama/Llama-3.1-8B", "team_x/model.v1"])
def test_hub_names_are_no_places(tmp_path, name):
    found = check_adapter(adapter(tmp_path, config=_with(base_model_name_or_path=name)), base_known=True)

    assert "base-local-path" not in {finding.rule for finding in found}


@pytest.mark.parametrize("library", ["transformers.models.bert.modeling_bert", "diffusers", "lerobot.policies"])
def test_libraries_that_peft_imports_are_no_finding(tmp_path, library):
    config = _with(auto_mapping={"base_model_class": "Net", "parent_library": library})

    assert "unsafe-library" not in {finding.rule for finding in check_adapter(adapter(tmp_path, config=config))}


@pytest.mark.parametrize("library", ["transformersx", "os", "__main__", 3, ["os"]])
def test_other_libraries_are(tmp_path, library):
    config = _with(auto_mapping={"base_model_class": "Net", "parent_library": library})

    assert "unsafe-library" in {finding.rule for finding in check_adapter(adapter(tmp_path, config=config))}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("auto_map", None),
        ("auto_map", {}),
        ("trust_remote_code", False),
        ("megatron_config", None),
        ("megatron_core", "megatron.core"),
    ],
)
def test_a_key_that_asks_for_nothing_is_no_error(tmp_path, key, value):
    found = check_adapter(adapter(tmp_path, config=_with(**{key: value})))

    assert not [finding for finding in found if finding.severity == "error"]
