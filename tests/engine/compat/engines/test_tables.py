"""Every row of every table fires on an adapter that trips it, names the place, and stays silent on a sound one."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from engine.compat.engines.check import check_for
from engine.compat.engines.target import ENGINES, parse_target
from engine.convert.rewrite.table import BY_WRITING, REWRITES
from engine.format.adapter import read_adapter
from tests.engine.compat.small_adapter import base

P = "base_model.model.model.layers.0.self_attn."
Q = "model.layers.0.self_attn.q_proj"
CONFIG = {
    "peft_type": "LORA", "base_model_name_or_path": "team/base", "r": 2, "lora_alpha": 2,
    "target_modules": ["q_proj", "k_proj", "v_proj"],
}  # fmt: skip
BASE = {f"model.layers.0.self_attn.{name}.weight": (6, 4) for name in ("q_proj", "k_proj", "v_proj")} | {
    "model.layers.0.mlp.gate_proj.weight": (8, 4), "model.layers.0.mlp.up_proj.weight": (8, 4),
    "model.embed_tokens.weight": (10, 4),
}  # fmt: skip


def _ones(*shape):
    return np.ones(shape, dtype=np.float32)


def _pair(module, a=(2, 4), b=(6, 2), names=("lora_A.weight", "lora_B.weight")):
    return {f"base_model.model.{module}.{name}": _ones(*shape) for name, shape in zip(names, (a, b), strict=True)}


SOUND = {**_pair(Q), **_pair(Q.replace("q_proj", "k_proj")), **_pair(Q.replace("q_proj", "v_proj"))}
EMBEDDING = _pair("model.embed_tokens", (2, 11), (4, 2), ("lora_embedding_A", "lora_embedding_B"))
COPY = {"base_model.model.model.embed_tokens.base_layer.weight": _ones(10, 4)}
CONV = _pair("net.conv", (2, 4, 3), (6, 2, 1))
CONVOLUTED = {"config": {"target_modules": ["q_proj", "k_proj", "v_proj", "conv"]}, "weights": {**SOUND, **CONV}}
HEAD = {"base_model.model.lm_head.weight": _ones(10, 4)}
OTHER = {
    "config": {"peft_type": "IA3", "feedforward_modules": []},
    "weights": {"base_model.model.x.ia3_l": _ones(4, 1)},
}
PISSA = {"config": {"init_lora_weights": "pissa"}}
ALORA = {"config": {"alora_invocation_tokens": [3]}}
COPIES = {"repeated": {"config": {"layer_replication": [[0, 1]]}}, "arrow": {"config": {"arrow_config": {"top_k": 1}}}}
BLOCKS = {"config": {"use_bdlora": {"nblocks": 2}}}
SCALED = {"config": {"use_rslora": True}}
TWICE = {"config": {"rank_pattern": {"q_proj": 3}}, "weights": {**SOUND, **_pair(Q, (3, 4), (6, 3))}}
NORM = {"base_model.model.model.norm.weight": _ones(4)}
BIASED = {"config": {"lora_bias": True}, "weights": {**SOUND, f"{P}q_proj.lora_B.bias": _ones(6)}}
TOKENS = {"base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta": _ones(1, 4)}
KEPT = "diffusers:prefix=base_model.model"


CLEARED = {rule for row in REWRITES for rule in row.clears} | BY_WRITING


def _without(*keys):
    return {"config": dict.fromkeys(keys)}


# rule -> (target, what is changed, `where` of the first finding)
TRIPS = {
    "vllm-type": ("vllm", OTHER, "peft_type"),
    "vllm-fields": ("vllm", _without("r"), "r"),
    "vllm-rank": ("vllm:max_lora_rank=1", {}, "r"),
    "vllm-saved": ("vllm", {"config": {"modules_to_save": ["lm_head"]}, "weights": {**SOUND, **HEAD}}, "modules_to_save"),
    "vllm-dora": ("vllm", {"config": {"use_dora": True}}, "use_dora"),
    "vllm-bias": ("vllm", {"config": {"bias": "all"}}, "bias"),
    "vllm-lora-bias": ("vllm", BIASED, "lora_bias"),
    "vllm-lora-bias-read": ("vllm@0.31.0", BIASED, "lora_bias"),
    "vllm-initialisation": ("vllm", PISSA, "init_lora_weights"),
    "vllm-initialisation-ignored": ("vllm@0.31.0", PISSA, "init_lora_weights"),
    "vllm-patterns": ("vllm@0.31.0", {"config": {"alpha_pattern": {"q_proj": 7}}}, Q),
    "vllm-alora": ("vllm", ALORA, "alora_invocation_tokens"),
    "vllm-alora-ignored": ("vllm@0.31.0", ALORA, "alora_invocation_tokens"),
    "vllm-replication": ("vllm", COPIES["repeated"], "layer_replication"),
    "vllm-replication-ignored": ("vllm@0.31.0", COPIES["repeated"], "layer_replication"),
    "vllm-bdlora": ("vllm", BLOCKS, "use_bdlora"),
    "vllm-bdlora-ignored": ("vllm@0.31.0", BLOCKS, "use_bdlora"),
    "vllm-qalora": ("vllm", {"config": {"use_qalora": True}}, "use_qalora"),
    "vllm-qalora-ignored": ("vllm@0.31.0", {"config": {"use_qalora": True}}, "use_qalora"),
    "vllm-arrow": ("vllm", COPIES["arrow"], "arrow_config"),
    "vllm-tensor-name": ("vllm", {"weights": {**SOUND, **NORM}}, "base_model.model.model.norm.weight"),
    "vllm-layer": ("vllm", CONVOLUTED, "net.conv"),
    "vllm-parameters": ("vllm", {"config": {"target_parameters": ["experts.up"]}}, "target_parameters"),
    "vllm-embedding-copy": ("vllm", {"weights": {**SOUND, **COPY}}, next(iter(COPY))),
    "vllm-vocabulary": ("vllm", {"config": {"target_modules": ["q_proj", "k_proj", "v_proj", "embed_tokens"]}, "weights": {**SOUND, **EMBEDDING}}, "base_model.model.model.embed_tokens.lora_embedding_A"),
    "sglang-type": ("sglang", OTHER, "peft_type"),
    "sglang-fields": ("sglang", _without("lora_alpha"), "lora_alpha"),
    "sglang-rank": ("sglang:max_lora_rank=1", {}, "r"),
    "sglang-one-rank": ("sglang", TWICE, f"{P}q_proj.lora_A.weight"),
    "sglang-scaling": ("sglang", SCALED, "model.layers.0.self_attn.k_proj"),
    "sglang-targets": ("sglang", {"config": {"target_modules": r".*\.[qkv]_proj"}}, "target_modules"),
    "sglang-stacked": ("sglang", {"config": {"target_modules": ["q_proj"]}, "weights": _pair(Q)}, Q),
    "sglang-gate": ("sglang", {"config": {"target_modules": ["q_proj", "k_proj", "v_proj", "up_proj"]}, "weights": {**SOUND, **_pair("model.layers.0.mlp.up_proj", b=(8, 2))}}, "model.layers.0.mlp.up_proj"),
    "sglang-layer": ("sglang", CONVOLUTED, "net.conv"),
    "sglang-dora": ("sglang", {"config": {"use_dora": True}}, "use_dora"),
    "sglang-initialisation": ("sglang", PISSA, "init_lora_weights"),
    "sglang-alora": ("sglang", ALORA, "alora_invocation_tokens"),
    "sglang-arrow": ("sglang", COPIES["arrow"], "arrow_config"),
    "sglang-shape": ("sglang", BLOCKS, "use_bdlora"),
    "sglang-replication": ("sglang", COPIES["repeated"], "layer_replication"),
    "sglang-dropped": ("sglang", {"config": {"modules_to_save": ["lm_head"]}, "weights": {**SOUND, **HEAD}}, next(iter(HEAD))),
    "sglang-no-slot": ("sglang", {"config": {"bias": "all"}, "weights": {**SOUND, f"{P}o_proj.bias": _ones(6)}}, f"{P}o_proj.bias"),
    "sglang-overwriting": ("sglang", {"config": {"kasa_config": {}}, "weights": {**SOUND, f"{P}q_proj.lora_diag": _ones(2)}}, f"{P}q_proj.lora_diag"),
    "sglang-tokens": ("sglang", {"config": {"trainable_token_indices": [1]}, "weights": {**SOUND, **TOKENS}}, next(iter(TOKENS))),
    "sglang-embedding-copy": ("sglang", {"weights": {**SOUND, **COPY}}, next(iter(COPY))),
    "sglang-added-tokens": ("sglang", {"files": ["added_tokens.json"]}, "added_tokens.json"),
    "diffusers-type": (KEPT, OTHER, "peft_type"),
    "diffusers-prefix": ("diffusers", {}, f"{P}k_proj.lora_A.weight"),
    "diffusers-names": (KEPT, {"config": {"modules_to_save": ["lm_head"]}, "weights": {**SOUND, **HEAD}}, next(iter(HEAD))),
    "diffusers-no-rank": (KEPT, {"config": {"target_modules": ["embed_tokens"]}, "weights": EMBEDDING}, "model.embed_tokens"),
    "diffusers-scaling": (KEPT, SCALED, "model.layers.0.self_attn.k_proj"),
    "diffusers-first-alpha": (KEPT.replace("diffusers", "diffusers@0.39.0"), {"config": {**TWICE["config"], "alpha_pattern": {"q_proj": 3}}, "weights": TWICE["weights"]}, Q),
    "diffusers-initialisation": (KEPT, PISSA, "init_lora_weights"),
    "diffusers-config": (KEPT, ALORA, "alora_invocation_tokens"),
    "diffusers-shape": (KEPT, BLOCKS, "use_bdlora"),
    "diffusers-metadata": (KEPT, {"header": {"base_model.model.r": 2, "base_model.model.lora_alpha": 9, "base_model.model.use_rslora": False}}, "lora_alpha"),
    "diffusers-header": (KEPT, {"header": [1]}, "lora_adapter_metadata"),
    "peft-type": ("peft@0.12.0", {"config": {"peft_type": "SHADOW"}, "weights": OTHER["weights"]}, "peft_type"),
    "peft-keys": ("peft@0.13.2", {"config": {"lora_bias": False}}, "lora_bias"),
    "peft-keys-dropped": ("peft@0.17.0", ALORA, "alora_invocation_tokens"),
    "peft-initialisation": ("peft@0.19.0", {"config": {"init_lora_weights": "mica"}}, "init_lora_weights"),
    "llamacpp-fields": ("llama.cpp", _without("lora_alpha"), "lora_alpha"),
    "llamacpp-tied-head": ("llama.cpp", {"config": {"target_modules": ["q_proj", "k_proj", "v_proj", "lm_head"]}, "weights": {**SOUND, **_pair("lm_head", b=(10, 2))}, "base": {"tie_word_embeddings": True}}, "lm_head"),
    "ollama-alpha": ("ollama", {"config": {"lora_alpha": 2.0}}, "lora_alpha"),
    "ollama-alora": ("ollama", ALORA, "alora_invocation_tokens"),
    "ollama-modules": ("ollama", {"config": {"target_modules": ["q_proj", "k_proj", "v_proj", "lm_head"]}, "weights": {**SOUND, **_pair("lm_head", b=(10, 2))}}, "lm_head"),
    "ollama-family": ("ollama", {"base": {"model_type": "qwen2"}}, "model_type"),
}  # fmt: skip
BOTH = {
    "type": (OTHER, "peft_type"),
    "tensors": (BIASED, f"{P}q_proj.lora_B.bias"),
    "norms": ({"weights": {**SOUND, **NORM}}, "base_model.model.model.norm.weight"),
    "scaling": (SCALED, "model.layers.0.self_attn.k_proj"),
    "layer": (CONVOLUTED, "net.conv"),
    "initialisation": (PISSA, "init_lora_weights"),
    "replication": (COPIES["repeated"], "layer_replication"),
    "shape": (BLOCKS, "use_bdlora"),
    "arrow": (COPIES["arrow"], "arrow_config"),
    "embedding-copy": ({"weights": {**SOUND, **COPY}}, next(iter(COPY))),
}
TRIPS |= {f"{name}-{rule}": (name, *trip) for name in ("llamacpp", "ollama") for rule, trip in BOTH.items()}
TRIPS |= {
    "own-type": ("own", {"config": {"peft_type": "LOHA"}, "weights": OTHER["weights"]}, "peft_type"),
    "own-variant": ("own", ALORA, "alora_invocation_tokens"),
    "own-initialisation": ("own", PISSA, "init_lora_weights"),
    "own-rank": ("own:target_rank=1", {}, "model.layers.0.self_attn.k_proj"),
}


def _findings(folder, text, changes):
    folder.mkdir(parents=True)
    settings = {**CONFIG, **changes.get("config", {})}
    settings = {key: value for key, value in settings.items() if value is not None}
    header = {"format": "pt"}
    if "header" in changes:
        header["lora_adapter_metadata"] = json.dumps(changes["header"])
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    save_file(changes.get("weights", SOUND), folder / "adapter_model.safetensors", metadata=header)
    known = base(folder / "base", BASE, vocab_size=10, **changes.get("base", {}))
    return check_for(read_adapter(folder), parse_target(text), base=known, files=changes.get("files", ()))


@pytest.mark.parametrize("rule", TRIPS)
def test_the_rule_fires_on_what_it_is_for(tmp_path, rule):
    text, changes, where = TRIPS[rule]

    fired = [finding for finding in _findings(tmp_path / "a", text, changes) if finding.rule == rule]

    assert fired
    assert fired[0].where == where
    rewritten = any((finding.fix or "").startswith("adapters convert") for finding in fired)
    assert not rewritten or rule in CLEARED  # tests/e2e/test_fixes.py runs those commands
    outcome = {row.id: row.outcome for engine in ENGINES for row in engine.rules}[rule]
    assert fired[0].severity == ("warning" if outcome == "note" else "error")
    assert outcome == "note" or ("expected" in fired[0].message and "found" in fired[0].message)


@pytest.mark.parametrize(
    "text",
    [
        "vllm",
        "vllm@0.31.0",
        "vllm@0.13.0",
        "sglang",
        "sglang@0.5.11",
        KEPT,
        "peft",
        "peft@0.10.0",
        "llama.cpp",
        "ollama",
        "own",
        "own:target_rank=2",
    ],
)
def test_a_sound_adapter_loads_everywhere(tmp_path, text):
    """So for each rule there is an adapter that does not trip it."""
    assert _findings(tmp_path / "a", text, {}) == ()


def test_every_rule_has_an_adapter_that_trips_it():
    assert TRIPS.keys() == {rule.id for engine in ENGINES for rule in engine.rules}


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("vllm", {"config": {"alpha_pattern": {"q_proj": 7}}}),  # honoured from 0.32 on
        ("vllm", {"config": {"init_lora_weights": "LoRA_GA"}}),
        ("vllm", {"config": {"modules_to_save": []}}),
        ("vllm@0.31.0", {"config": {"rank_pattern": {"zebra": 99}}}),  # no pattern is looked at before 0.32
        ("vllm", SCALED),
        ("sglang", {}),  # no --max-lora-rank: not checked
        ("sglang", {"config": {"use_rslora": True, "lora_alpha": 0}}),
        ("llama.cpp", ALORA),
        ("peft@0.20.0", {"config": {"kasa_config": None}}),
        ("peft@0.18.0", {"config": {"lora_ga_config": {"a": 1}}}),  # training alone asks for it
        (KEPT, {"header": {"base_model.model.r": 2, "base_model.model.lora_alpha": 2, "transformer.r": 9}}),
        (KEPT, {"header": {"base_model.model.r": 2, "base_model.model.lora_alpha": 2, "base_model.model.use_rslora": True}, **SCALED}),
    ],
)  # fmt: skip
def test_what_an_engine_does_right_is_no_finding(tmp_path, text, changes):
    assert [finding for finding in _findings(tmp_path / "a", text, changes) if finding.severity == "error"] == []


@pytest.mark.parametrize(
    ("text", "changes", "fix"),
    [
        ("sglang", SCALED, "adapters convert REF --for sglang"),
        ("sglang", PISSA, "adapters convert REF --for sglang --initial INITIAL"),
        ("vllm:max_lora_rank=1", {}, "start vLLM with --max-lora-rank 8"),
        ("vllm@0.31.0:max_lora_rank=64", {"config": {"alpha_pattern": {"q_proj": 7}}}, "adapters convert REF --for vllm@0.31:max_lora_rank=64"),
        ("vllm", _without("r"), "adapters convert REF --for vllm"),
        ("vllm", {"weights": {name.replace(".weight", ".default.weight"): value for name, value in SOUND.items()}}, "adapters convert REF --for vllm"),
        ("vllm", {"weights": {**SOUND, **NORM}}, None),
        ("ollama", {"config": {"lora_alpha": 2.0}}, "adapters convert REF --for ollama"),
        ("peft@0.19.0", {"config": {"init_lora_weights": "mica"}}, "adapters convert REF --for peft@0.19"),
        ("peft@0.10.0", {"config": {"init_lora_weights": "pissa"}}, "adapters convert REF --for peft@0.10 --initial INITIAL"),
        (KEPT, SCALED, f"adapters convert REF --for {KEPT}"),
        ("sglang:max_lora_rank=1", {}, "start SGLang with --max-lora-rank 2"),
        ("peft@0.13.2", {"config": {"lora_bias": False}}, "adapters convert REF --for peft@0.13.2"),
        ("peft@0.13.2", {"config": {"kasa_config": {"a": 1}}}, None),
        ("vllm", {"config": {"use_dora": True}}, None),
    ],
)  # fmt: skip
def test_what_can_be_mended_says_how(tmp_path, text, changes, fix):
    errors = [finding for finding in _findings(tmp_path / "a", text, changes) if finding.severity == "error"]

    assert {finding.fix for finding in errors} == {fix}


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("vllm", "vllm"),
        ("vllm@0.33", "vllm"),
        ("VLLM@0.31.0:max_lora_rank=16", "vllm@0.31"),
        ("vllm@0.32:max_lora_rank=64", "vllm@0.32:max_lora_rank=64"),
        ("llama.cpp@b4567", "llamacpp@4567"),
        ("sglang@0.5.11", "sglang@0.5.11"),
    ],
)
def test_a_target_is_asked_for_again_by_its_text(text, asked):
    target = parse_target(text)

    assert target.asked == asked
    assert parse_target(target.asked) == target


def test_without_a_base_its_rules_are_skipped(tmp_path):
    _findings(tmp_path / "a", "vllm", {})

    found = check_for(read_adapter(tmp_path / "a"), parse_target("vllm"))

    assert [(finding.rule, finding.severity) for finding in found] == [("vllm-vocabulary", "skipped")]


def test_before_patterns_counted_a_slot_is_too_small_for_a_larger_factor(tmp_path):
    found = _findings(tmp_path / "a", "vllm@0.31.0:max_lora_rank=2", TWICE)

    assert [one.where for one in found if one.rule == "vllm-rank"] == [f"base_model.model.{Q}.lora_A.weight"]
