"""SGLang's rules, read from the wheels of 0.5.11 to 0.5.23.

It reads five keys of the configuration and scales every module by lora_alpha / r. Q, K, V and gate, up are stacked per
layer, so one without the others has no slot. Most refusals come when the adapter is first used, not when it is loaded.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from engine.compat.engines import traits
from engine.compat.engines.table import Engine, EngineRule, Limit, Source, Span
from engine.compat.layers import index_of
from engine.compat.rule import Hit, listed, strings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from engine.compat.engines.table import EngineTarget
    from engine.compat.rule import Subject

_CONFIG = Source("sglang/srt/lora/lora_config.py", "LoRAConfig.__init__", "0.5.23", "run")
_ADAPTER = Source("sglang/srt/lora/lora.py", "LoRAAdapter.__init__", "0.5.23", "run")
_STACK = Source("sglang/srt/lora/lora.py", "LoRAAdapter.normalize_qkv_proj", "0.5.23", "run")
_PROCESS = Source("sglang/srt/lora/lora.py", "LoRAAdapter._process_weight", "0.5.23", "run")
_VALIDATE = Source("sglang/srt/lora/lora_manager.py", "LoRAManager.validate_new_adapter", "0.5.23", "run")
_POOL = Source("sglang/srt/lora/mem_pool.py", "LoRAMemoryPool.load_lora_weight_to_buffer", "0.5.23", "run")
_CAN = Source("sglang/srt/lora/mem_pool.py", "LoRAMemoryPool.can_support", "0.5.23")
_TARGETS = Source("sglang/srt/lora/utils.py", "get_normalized_target_modules", "0.5.23", "run")
_KEYS = Source("sglang/srt/lora/lora_config.py", "LoRAConfig.__init__", "0.5.23")
_TYPE = Source("sglang/srt/lora/lora.py", "LoRAAdapter.__init__", "0.5.23")
_ADDED = Source("sglang/srt/lora/lora_manager.py", "LoRAManager.validate_new_adapter", "0.5.23")
_UNGATED = Source("sglang/srt/lora/lora.py", "LoRAAdapter.normalize_gate_up_proj", "0.5.23")
_SIZES = Source("sglang/srt/lora/utils.py", "get_default_hidden_dim", "0.5.23")

_LAYER = re.compile(r"layers\.\d+\.")
_ASKED_FOR = ("peft_type", "target_modules", "r", "lora_alpha")

# Names of modules that have a slot of their own or share one; models may declare more for themselves.
_SLOTS = """
    q_proj k_proj v_proj qkv_proj o_proj out_proj gate_proj up_proj gate_up_proj down_proj embed_tokens vocab_emb
    embeddings word_embeddings lm_head output unembed_tokens q_a_proj kv_a_proj_with_mqa fused_qkv_a_proj_with_mqa
    q_b_proj kv_b_proj in_proj in_proj_qkvz in_proj_q in_proj_k in_proj_v in_proj_z x_proj fc1_latent_proj
    fc2_latent_proj wq_b wk weights_proj qkvr wq_du wk_dv wv_dv wr_du wo_ud w1 w2 w3
"""
# The module that must stand beside another one for the two to be stacked.
_NEEDS = {"q_proj": "v_proj", "k_proj": "q_proj", "v_proj": "q_proj"}
_GATED = {"up_proj": "gate_proj"}
_DROPPED = ("modules_to_save", "bias", "lora_bias")
_OVERWRITING = ("diag", "velora", "monteclora")


def _rank(subject: Subject, target: EngineTarget) -> Iterator[Hit]:
    lora, most = subject.facts.config.lora, target.number("max_lora_rank")
    if lora is not None and most is not None and lora.r > most:
        fix = f"start SGLang with --max-lora-rank {lora.r}"
        yield Hit(f"r: expected at most max_lora_rank {most}, found {lora.r}", "r", fix)


def _one_rank(subject: Subject, target: EngineTarget) -> Iterator[Hit]:
    lora = subject.facts.config.lora
    if lora is None:
        return
    for module in subject.facts.modules:
        if module.kind != "parameter" and module.rank != lora.r:
            yield Hit(
                f"tensor {module.a_key}: expected {lora.r} rows, the config's r, found {module.rank}",
                module.a_key,
                traits.rewrite(target),
            )


def _scaling(subject: Subject, target: EngineTarget) -> Iterator[Hit]:
    one = traits.plain_scale(subject)
    return traits.scaled_otherwise(subject, target, lambda _module: one)


def _targets(subject: Subject, target: EngineTarget) -> Iterator[Hit]:
    targets = subject.raw.get("target_modules")
    if subject.facts.config.lora is None or (isinstance(targets, str) and targets in ("all", "all-linear")):
        return
    if not isinstance(targets, list):
        yield Hit(
            f"target_modules: expected a list of names or all-linear, found {traits.short(targets)}",
            "target_modules",
            traits.rewrite(target),
        )
        return
    slots = frozenset(_SLOTS.split())
    if unknown := sorted({name for name in strings(targets) if name.rpartition(".")[2] not in slots}):
        yield Hit(f"target_modules: expected names that have a slot, found {listed(unknown)}", "target_modules")


def _stacked(subject: Subject, _target: EngineTarget) -> Iterator[Hit]:
    for name, beside in _alone(subject, _NEEDS):
        yield Hit(f"{name}: expected {beside} beside it, which is stacked with it, found none", name)


def _gated(subject: Subject, _target: EngineTarget) -> Iterator[Hit]:
    if subject.base is None:
        return
    index = index_of(subject.base)
    for name, beside in _alone(subject, _GATED):
        # where the base has no gate, the model keeps up_proj in a slot of its own
        if index.has_module(beside):
            yield Hit(f"{name}: expected {beside} beside it, which the base stacks with it, found none", name)


def _alone(subject: Subject, needs: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Modules that lack the neighbour they need: (the module, the neighbour)."""
    names = {module.name for module in subject.facts.modules}
    alone = []
    for name in names:
        parent, dot, leaf = name.rpartition(".")
        if leaf in needs and (beside := f"{parent}{dot}{needs[leaf]}") not in names:
            alone.append((name, beside))
    yield from sorted(alone)


def _no_slot(subject: Subject, _target: EngineTarget) -> Iterator[Hit]:
    targets = [name.rpartition(".")[2] for name in strings(subject.raw.get("target_modules"))]
    others = sorted(name for name, role in subject.facts.others.items() if role in _DROPPED)
    # a tensor of a numbered layer is looked up by the targets' names, anywhere in its own
    if lost := [name for name in others if _LAYER.search(name) and not any(leaf in name for leaf in targets)]:
        yield Hit(f"expected tensors of targeted modules alone, found {listed(lost)}", lost[0])


def _added_tokens(subject: Subject, _target: EngineTarget) -> Iterator[Hit]:
    if "added_tokens.json" in subject.files:
        yield Hit(
            "added_tokens.json: refused where it names an id that the base's vocabulary lacks", "added_tokens.json"
        )


RULES = (
    EngineRule("sglang-type", "refuses", "The adapter is no LoRA.", _TYPE, traits.other_type),
    EngineRule(
        "sglang-fields", "refuses", "r, lora_alpha or target_modules is absent.", _KEYS, traits.asks_for(*_ASKED_FOR)
    ),
    EngineRule("sglang-rank", "refuses", "r is above max_lora_rank.", _CAN, _rank),
    EngineRule(
        "sglang-one-rank", "refuses", "A module's rank is not the config's r.", _POOL, _one_rank, needs="tensors"
    ),
    EngineRule(
        "sglang-scaling", "differs", "rsLoRA and alpha_pattern are passed over.", _ADAPTER, _scaling, needs="tensors"
    ),
    EngineRule("sglang-targets", "refuses", "Targets are a pattern, or have no slot.", _TARGETS, _targets),
    EngineRule(
        "sglang-stacked", "refuses", "A stacked projection lacks its neighbour.", _STACK, _stacked, needs="tensors"
    ),
    EngineRule("sglang-gate", "refuses", "up_proj is adapted without gate_proj.", _UNGATED, _gated, needs="base"),
    EngineRule("sglang-layer", "refuses", "A layer kind without LoRA.", _SIZES, traits.ONLY_LINEAR, needs="tensors"),
    EngineRule("sglang-dora", "refuses", "DoRA.", _VALIDATE, traits.NO_MAGNITUDES),
    EngineRule(
        "sglang-initialisation",
        "differs",
        "An initialisation that changed the base is passed over.",
        _CONFIG,
        traits.changed_base,
    ),
    EngineRule("sglang-alora", "differs", "Activated LoRA acts on every token.", _CONFIG, traits.NO_ACTIVATION),
    EngineRule("sglang-arrow", "differs", "Routing between adapters is passed over.", _KEYS, traits.NO_ROUTING),
    EngineRule(
        "sglang-shape",
        "refuses",
        "Block-diagonal or grouped factors.",
        _POOL,
        traits.forbids("use_bdlora", "use_qalora", because="the factors have another shape than their slot"),
    ),
    EngineRule(
        "sglang-replication",
        "refuses",
        "Repeated layers.",
        _PROCESS,
        traits.forbids("layer_replication", because="the engine builds no repeated layers"),
    ),
    EngineRule(
        "sglang-dropped",
        "differs",
        "Biases, heads or other tensors are dropped.",
        _PROCESS,
        traits.passes_over_roles(*_DROPPED, because="expected factors alone, the rest is dropped"),
        needs="tensors",
    ),
    EngineRule("sglang-no-slot", "refuses", "A tensor belongs to no target.", _POOL, _no_slot, needs="tensors"),
    EngineRule(
        "sglang-overwriting",
        "refuses",
        "A tensor takes the place of lora_B.",
        _POOL,
        traits.passes_over_roles(*_OVERWRITING, because="expected factors alone, the rest takes the place of lora_B"),
        needs="tensors",
    ),
    EngineRule(
        "sglang-tokens",
        "differs",
        "Trained token rows are dropped.",
        _PROCESS,
        traits.passes_over_roles("tokens", because="expected factors alone, trained token rows are dropped"),
        needs="tensors",
    ),
    EngineRule(
        "sglang-embedding-copy",
        "note",
        "A full embedding is passed over.",
        _PROCESS,
        traits.passes_over_roles(
            "embedding", because="a full embedding is passed over; trained or resized, it is lost"
        ),
        needs="tensors",
    ),
    EngineRule("sglang-added-tokens", "note", "Tokens may be added.", _ADDED, _added_tokens),
)

TABLE = Engine(
    "sglang",
    "SGLang",
    Span(since="0.5.11", before="0.5.24"),
    "0.5.23",
    RULES,
    limits=(
        Limit("max_lora_rank", int, None, "--max-lora-rank of the server; without it, the largest r it starts with"),
    ),
)
