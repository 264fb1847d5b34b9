"""llama.cpp's and Ollama's rules, read from snapshots of their repositories: no release of theirs can be asked for.

llama.cpp converts an adapter with `convert_lora_to_gguf.py`, which keeps the factors and one alpha; it runs them with
alpha / rank, the rank of each tensor. Ollama converts by itself, and runs the result with llama.cpp.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.compat.engines import traits
from engine.compat.engines.table import Engine, EngineRule, Source, Span
from engine.compat.rule import Hit, listed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.compat.engines.table import EngineTarget
    from engine.compat.rule import Subject
    from engine.format.facts import ModuleFacts

_CONVERT = Source("convert_lora_to_gguf.py", "LoraModel.get_tensors", "snapshot 0b03adaa", "notes")
_TORCH = Source("convert_lora_to_gguf.py", "LoraTorchTensor", "snapshot 0b03adaa", "notes")
_ALPHA = Source("convert_lora_to_gguf.py", "LoraModel.set_gguf_parameters", "snapshot 0b03adaa", "notes")
_HEAD = Source("convert_lora_to_gguf.py", "LoraModel.modify_tensors", "snapshot 0b03adaa", "notes")
_RUN = Source("src/llama-adapter.cpp", "llama_adapter_lora_init_impl", "reference notes", "notes")
_OLLAMA = Source("convert/convert.go", "AdapterParameters", "snapshot 01cf7445", "notes")
_OLLAMA_NAMES = Source("convert/convert_llama_adapter.go", "llamaAdapter.Replacements", "snapshot 02420803", "notes")

_FACTORS = (".lora_A.weight", ".lora_B.weight", ".lora_embedding_A", ".lora_embedding_B")
_RENAMED = frozenset({"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"})
_OLLAMA_BASES = frozenset({"llama", "mistral", "mixtral", "gemma2"})
_LARGEST = 2**32


def _tensors(subject: Subject, target: EngineTarget) -> Iterator[Hit]:
    for name in sorted(subject.facts.header.tensors):
        if not _is_factor(name) and not _is_copy(name) and not _is_norm(name):
            yield Hit(
                f"tensor {name}: expected a lora_A or lora_B tensor, found neither", name, traits.rename(name, target)
            )


def _norms(subject: Subject, _target: EngineTarget) -> Iterator[Hit]:
    found = sorted(name for name in subject.facts.header.tensors if not _is_factor(name) and _is_norm(name))
    if found:
        yield Hit(f"expected factors alone, found {len(found)} norms, which do nothing: {listed(found)}", found[0])


def _is_factor(name: str) -> bool:
    return any(part in name for part in _FACTORS)


def _is_copy(name: str) -> bool:
    return ".base_layer.weight" in name


def _is_norm(name: str) -> bool:
    return not _is_copy(name) and ("_layernorm" in name or ".norm" in name)


def _scaling(subject: Subject, target: EngineTarget) -> Iterator[Hit]:
    lora = subject.facts.config.lora
    alpha = 0.0 if lora is None else lora.lora_alpha

    def scale(module: ModuleFacts) -> float:
        # no alpha means no division either
        return alpha / max(module.rank, 1) if alpha else 1.0

    return traits.scaled_otherwise(subject, target, scale)


def _tied_head(subject: Subject, _target: EngineTarget) -> Iterator[Hit]:
    tied = subject.base is not None and subject.base.config.get("tie_word_embeddings") is True
    if tied and (heads := [module.name for module in subject.facts.modules if module.base_name == "lm_head"]):
        yield Hit(f"{heads[0]}: expected no factors of a tied output layer, found them", heads[0])


def _whole_alpha(subject: Subject, target: EngineTarget) -> Iterator[Hit]:
    alpha = subject.raw.get("lora_alpha", 0)
    if subject.facts.config.lora is not None and not (type(alpha) is int and 0 <= alpha < _LARGEST):
        yield Hit(
            f"lora_alpha: expected a whole number without a point, found {traits.short(alpha)}",
            "lora_alpha",
            traits.rewrite(target),
        )


def _renamed(subject: Subject, _target: EngineTarget) -> Iterator[Hit]:
    wrong = [module.name for module in subject.facts.modules if module.name.rpartition(".")[2] not in _RENAMED]
    if wrong:
        yield Hit(f"expected modules of {', '.join(sorted(_RENAMED))}, found {listed(wrong)}", wrong[0])


def _family(subject: Subject, _target: EngineTarget) -> Iterator[Hit]:
    kind = None if subject.base is None else subject.base.model_type
    if kind is not None and kind not in _OLLAMA_BASES:
        yield Hit(f"base: expected a model of {', '.join(sorted(_OLLAMA_BASES))}, found {kind!r:.80}", "model_type")


def _rules(name: str) -> tuple[EngineRule, ...]:
    """What holds for both, under the name of one."""
    return (
        EngineRule(f"{name}-type", "refuses", "The adapter is no LoRA.", _CONVERT, traits.other_type),
        EngineRule(f"{name}-tensors", "refuses", "A tensor is no LoRA factor.", _CONVERT, _tensors, needs="tensors"),
        EngineRule(f"{name}-norms", "differs", "Norms travel along and do nothing.", _CONVERT, _norms, needs="tensors"),
        EngineRule(
            f"{name}-scaling", "differs", "rsLoRA and alpha_pattern are passed over.", _RUN, _scaling, needs="tensors"
        ),
        EngineRule(
            f"{name}-layer", "refuses", "A layer kind without LoRA.", _TORCH, traits.ONLY_LINEAR, needs="tensors"
        ),
        EngineRule(
            f"{name}-initialisation",
            "differs",
            "An initialisation that changed the base is passed over.",
            _CONVERT,
            traits.changed_base,
        ),
        EngineRule(
            f"{name}-replication",
            "refuses",
            "Repeated layers.",
            _RUN,
            traits.forbids("layer_replication", because="the base has no such layers"),
        ),
        EngineRule(
            f"{name}-shape",
            "refuses",
            "Block-diagonal or grouped factors.",
            _RUN,
            traits.forbids("use_bdlora", "use_qalora", because="the factors have another shape than the base's tensor"),
        ),
        EngineRule(f"{name}-arrow", "differs", "Routing between adapters is passed over.", _CONVERT, traits.NO_ROUTING),
        EngineRule(
            f"{name}-embedding-copy",
            "note",
            "A full embedding is passed over.",
            _CONVERT,
            traits.passes_over_copies(_is_copy),
        ),
    )


TABLE = Engine(
    "llamacpp",
    "llama.cpp",
    Span(),
    None,
    (
        *_rules("llamacpp"),
        EngineRule("llamacpp-fields", "refuses", "lora_alpha is absent.", _ALPHA, traits.asks_for("lora_alpha")),
        EngineRule("llamacpp-tied-head", "refuses", "lm_head is adapted and tied.", _HEAD, _tied_head, needs="base"),
    ),
    aliases=("llama.cpp", "llama-cpp"),
)

OLLAMA = Engine(
    "ollama",
    "Ollama",
    Span(),
    None,
    (
        *_rules("ollama"),
        EngineRule("ollama-alpha", "refuses", "lora_alpha is no whole number.", _OLLAMA, _whole_alpha),
        EngineRule("ollama-alora", "differs", "Activated LoRA acts on every token.", _OLLAMA, traits.NO_ACTIVATION),
        EngineRule("ollama-modules", "refuses", "A module is not renamed.", _OLLAMA_NAMES, _renamed, needs="tensors"),
        EngineRule("ollama-family", "refuses", "The base is of another family.", _OLLAMA, _family, needs="base"),
    ),
)
