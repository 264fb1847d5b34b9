"""vLLM's rules, read from the wheels of 0.13.0 to 0.33.0.

Its file `peft_helper.py` is the same text from 0.13 to 0.23, and was rewritten in 0.32: patterns are honoured from then
on, and what was passed over in silence is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.compat.engines import traits
from engine.compat.engines.table import Engine, EngineRule, Limit, Source, Span
from engine.compat.rule import Hit, listed, strings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.compat.engines.table import EngineTarget
    from engine.compat.rule import Subject

_HELPER = Source("vllm/lora/peft_helper.py", "PEFTHelper.validate_legal", "0.33.0", "run")
_OLD_HELPER = Source("vllm/lora/peft_helper.py", "PEFTHelper.__post_init__", "0.31.0", "run")
_FIELDS = Source("vllm/lora/peft_helper.py", "PEFTHelper.from_dict", "0.33.0")
_NAMES = Source("vllm/lora/utils.py", "parse_fine_tuned_lora_name", "0.33.0", "run")
_OLD_NAMES = Source("vllm/lora/utils.py", "parse_fine_tuned_lora_name", "0.31.0", "run")
_MODULES = Source("vllm/lora/lora_model.py", "LoRAModel.from_local_checkpoint", "0.33.0")
_TENSORS = Source("vllm/lora/lora_model.py", "LoRAModel.from_lora_tensors", "0.33.0")

REWRITTEN = "0.32"
_BEFORE, _SINCE = Span(before=REWRITTEN), Span(since=REWRITTEN)
_HEADS_SINCE = Span(since="0.31")
# Only 0.31 reads a bias of a factor, and takes it for the factor itself.
_BIASES = Span("0.31", REWRITTEN)

_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
_HEADS = frozenset({"classifier", "score"})
_KNOWN_INITS = frozenset({"gaussian", "eva", "orthogonal", "mica", "lora_ga"})
_FACTORS = (".lora_A.weight", ".lora_B.weight")
_COPIES = (".embed_tokens.base_layer.weight", ".lm_head.base_layer.weight")


def _rank(subject: Subject, target: EngineTarget) -> Iterator[Hit]:
    lora, most = subject.facts.config.lora, target.number("max_lora_rank")
    if lora is None:
        return
    ranks = {"r": lora.r, **(_patterned(subject) if _SINCE.holds(target.version) else _stored(subject))}
    key = max(ranks, key=ranks.__getitem__)
    if most is not None and ranks[key] > most:
        allowed = next((rank for rank in _RANKS if rank >= ranks[key]), None)
        fix = None if allowed is None else f"start vLLM with --max-lora-rank {allowed}"
        yield Hit(f"{key}: expected at most max_lora_rank {most}, found {ranks[key]}", key, fix)
    if (least := min(ranks, key=ranks.__getitem__)) and ranks[least] <= 0:
        yield Hit(f"{least}: expected a positive rank, found {ranks[least]}", least)


def _patterned(subject: Subject) -> dict[str, int]:
    """Ranks of patterns, whether a module has them or not."""
    lora = subject.facts.config.lora
    return {} if lora is None else {f"rank_pattern.{key}": rank for key, rank in lora.rank_pattern.items()}


def _stored(subject: Subject) -> dict[str, int]:
    """Ranks of the factors: a slot takes no larger one, whatever a pattern says."""
    return {module.a_key: module.rank for module in subject.facts.modules if module.kind != "parameter"}


def _saved(subject: Subject, target: EngineTarget) -> Iterator[Hit]:
    heads = _HEADS if _HEADS_SINCE.holds(target.version) else frozenset()
    if wrong := [name for name in strings(subject.raw.get("modules_to_save")) if name not in heads]:
        expected = f"nothing but {' or '.join(sorted(heads))}" if heads else "null"
        yield Hit(f"modules_to_save: expected {expected}, found {listed(wrong)}", "modules_to_save")


def _bias(subject: Subject, _target: EngineTarget) -> Iterator[Hit]:
    if (bias := subject.raw.get("bias", "none")) != "none":
        yield Hit(f"bias: expected 'none', found {traits.short(bias)}", "bias")


def _initialisation(subject: Subject, target: EngineTarget) -> Iterator[Hit]:
    method = subject.raw.get("init_lora_weights", True)
    if isinstance(method, str) and method.lower() not in _KNOWN_INITS:
        yield Hit(
            f"init_lora_weights: expected true, false or one of {', '.join(sorted(_KNOWN_INITS))}, found "
            f"{traits.short(method)}",
            "init_lora_weights",
            traits.rewrite_from_initial(target),
        )


def _old_patterns(subject: Subject, target: EngineTarget) -> Iterator[Hit]:
    lora = subject.facts.config.lora
    if lora is None or lora.r <= 0:
        return
    one = lora.lora_alpha / (lora.r**0.5 if lora.use_rslora else lora.r)
    yield from traits.scaled_otherwise(subject, target, lambda _module: one)


def _names(subject: Subject, target: EngineTarget) -> Iterator[Hit]:
    heads, biases = _HEADS_SINCE.holds(target.version), _BIASES.holds(target.version)
    others = [name for name in subject.facts.header.tensors if not name.endswith(_FACTORS)]
    for name in sorted(others):
        if not _is_copy(name) and not _is_readable(name, heads=heads, biases=biases):
            yield Hit(
                f"tensor {name}: expected a name that ends in lora_A.weight, lora_B.weight, lora_embedding_A or "
                "lora_embedding_B, found none of them",
                name,
                traits.rename(name, target),
            )


def _is_readable(name: str, *, heads: bool, biases: bool) -> bool:
    parts = name.split(".")
    if parts[-1] in ("lora_embedding_A", "lora_embedding_B"):
        return True
    if len(parts) < 2 or parts[-1] not in ("weight", "bias"):
        return False
    factor = parts[-2] in ("lora_A", "lora_B") and (parts[-1] == "weight" or biases)
    return factor or (heads and parts[-2] in _HEADS)


def _parameters(subject: Subject, _target: EngineTarget) -> Iterator[Hit]:
    if names := strings(subject.raw.get("target_parameters")):
        yield Hit(
            f"target_parameters: expected modules, found {listed(names)}; works for fused experts alone, and with "
            "is_3d_lora_weight on the request where the server mixes formats",
            "target_parameters",
        )


def _vocabulary(subject: Subject, _target: EngineTarget) -> Iterator[Hit]:
    size = None if subject.base is None else subject.base.config.get("vocab_size")
    for module in subject.facts.modules:
        if module.kind == "embedding" and isinstance(size, int) and module.a_shape[1] != size:
            yield Hit(f"tensor {module.a_key}: expected {size} columns, found {module.a_shape[1]}", module.a_key)


def _is_copy(name: str) -> bool:
    return name.endswith(_COPIES)


_NO_LORA_BIAS = traits.forbids("lora_bias", because="biases of the factors are not supported")
_NO_REPLICATION = traits.forbids("layer_replication", because="the engine builds no repeated layers")
_NO_BLOCKS = traits.forbids("use_bdlora", because="block-diagonal factors are read as full ones")
_NO_GROUPS = traits.forbids("use_qalora", because="factors over groups of inputs are read as full ones")
_NO_CONVOLUTIONS = traits.lacks_kinds("conv1d", "conv2d", "conv3d", expected="linear, embedding or expert layers")

RULES = (
    EngineRule("vllm-type", "refuses", "The adapter is no LoRA.", _FIELDS, traits.other_type),
    EngineRule(
        "vllm-fields",
        "refuses",
        "r, lora_alpha or target_modules is absent.",
        _FIELDS,
        traits.asks_for("r", "lora_alpha", "target_modules"),
    ),
    EngineRule("vllm-rank", "refuses", "A rank is above max_lora_rank.", _HELPER, _rank),
    EngineRule("vllm-saved", "refuses", "modules_to_save names more than a head.", _HELPER, _saved),
    EngineRule("vllm-dora", "refuses", "DoRA.", _HELPER, traits.NO_MAGNITUDES),
    EngineRule("vllm-bias", "refuses", "Biases of the base are trained.", _HELPER, _bias),
    EngineRule("vllm-lora-bias", "refuses", "LoRA biases.", _HELPER, _NO_LORA_BIAS, _SINCE),
    EngineRule(
        "vllm-lora-bias-read", "differs", "A LoRA bias is taken for its factor.", _OLD_NAMES, _NO_LORA_BIAS, _BIASES
    ),
    EngineRule(
        "vllm-initialisation", "refuses", "An initialisation that changed the base.", _HELPER, _initialisation, _SINCE
    ),
    EngineRule(
        "vllm-initialisation-ignored",
        "differs",
        "An initialisation that changed the base is passed over.",
        _OLD_HELPER,
        traits.changed_base,
        _BEFORE,
    ),
    EngineRule(
        "vllm-patterns",
        "differs",
        "rank_pattern and alpha_pattern are passed over.",
        _OLD_HELPER,
        _old_patterns,
        _BEFORE,
    ),
    EngineRule("vllm-alora", "refuses", "Activated LoRA.", _HELPER, traits.NO_ACTIVATION, _SINCE),
    EngineRule(
        "vllm-alora-ignored",
        "differs",
        "Activated LoRA acts on every token.",
        _OLD_HELPER,
        traits.NO_ACTIVATION,
        _BEFORE,
    ),
    EngineRule("vllm-replication", "refuses", "Repeated layers.", _HELPER, _NO_REPLICATION, _SINCE),
    EngineRule(
        "vllm-replication-ignored", "differs", "Layers are not repeated.", _OLD_HELPER, _NO_REPLICATION, _BEFORE
    ),
    EngineRule("vllm-bdlora", "refuses", "Block-diagonal LoRA.", _HELPER, _NO_BLOCKS, _SINCE),
    EngineRule(
        "vllm-bdlora-ignored",
        "differs",
        "Block-diagonal factors are read as full ones.",
        _OLD_HELPER,
        _NO_BLOCKS,
        _BEFORE,
    ),
    EngineRule("vllm-qalora", "refuses", "QALoRA.", _HELPER, _NO_GROUPS, _SINCE),
    EngineRule(
        "vllm-qalora-ignored", "differs", "Grouped factors are read as full ones.", _OLD_HELPER, _NO_GROUPS, _BEFORE
    ),
    EngineRule("vllm-arrow", "differs", "Routing between adapters is passed over.", _FIELDS, traits.NO_ROUTING),
    EngineRule("vllm-tensor-name", "refuses", "A tensor is no LoRA factor.", _NAMES, _names, needs="tensors"),
    EngineRule("vllm-layer", "refuses", "A layer kind without LoRA.", _MODULES, _NO_CONVOLUTIONS, needs="tensors"),
    EngineRule("vllm-parameters", "note", "Bare parameters are adapted.", _MODULES, _parameters),
    EngineRule(
        "vllm-embedding-copy",
        "note",
        "A full embedding is passed over.",
        _MODULES,
        traits.passes_over_copies(_is_copy),
        needs="tensors",
    ),
    EngineRule(
        "vllm-vocabulary",
        "refuses",
        "An embedding's factor has another vocabulary.",
        _TENSORS,
        _vocabulary,
        needs="base",
    ),
)

TABLE = Engine(
    "vllm",
    "vLLM",
    Span(since="0.13", before="0.34"),
    "0.33.0",
    RULES,
    limits=(Limit("max_lora_rank", int, 16, "--max-lora-rank of the server"),),
)
