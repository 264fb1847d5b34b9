"""diffusers' rules, read from the wheels of 0.35.0 to 0.42.1.

Its LoRA loaders never read adapter_config.json: they take the tensors below a prefix, guess ranks from the shapes, and
scale by 1 unless the safetensors header carries `lora_adapter_metadata`. A folder that PEFT wrote has the prefix
`base_model.model`, which only some pipelines rewrite, so by default nothing of it is loaded.
"""

from __future__ import annotations

import json
from itertools import repeat
from typing import TYPE_CHECKING, Any

from engine.compat.engines import traits
from engine.compat.engines.table import Engine, EngineRule, Limit, Source, Span
from engine.compat.rule import Hit, listed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from engine.compat.engines.table import EngineTarget
    from engine.compat.rule import Subject
    from engine.format.facts import ModuleFacts

_LOAD = Source("diffusers/loaders/peft.py", "PeftAdapterMixin.load_lora_adapter", "0.42.1", "run")
_TYPE = Source("diffusers/loaders/peft.py", "PeftAdapterMixin.load_lora_adapter", "0.42.1")
_GUESS = Source("diffusers/utils/peft_utils.py", "get_peft_kwargs", "0.42.1", "run")
_RANKS = Source("diffusers/utils/peft_utils.py", "get_peft_kwargs", "0.42.1")
_OLD_GUESS = Source("diffusers/utils/peft_utils.py", "get_peft_kwargs", "0.39.0", "run")
_METADATA = Source("diffusers/utils/state_dict_utils.py", "_load_sft_state_dict_metadata", "0.42.1")

MIRRORED = "0.40"
"""From this release on alpha follows each module's rank; before, it is the rank of the file's first module."""

_KEY = "lora_adapter_metadata"
_DECIDING = (
    "r",
    "lora_alpha",
    "use_rslora",
    "rank_pattern",
    "alpha_pattern",
    "init_lora_weights",
    "lora_bias",
    "use_dora",
)
_SHAPED = traits.forbids("use_bdlora", "use_qalora", because="the factors have another shape than a plain LoRA's")
_PASSED_OVER = traits.forbids(
    "alora_invocation_tokens",
    "layer_replication",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "target_parameters",
    because="the config is not read",
)


def _prefix(subject: Subject, target: EngineTarget) -> Iterator[Hit]:
    start, names = target.text("prefix") + ".", sorted(subject.facts.header.tensors)
    if outside := [name for name in names if not name.startswith(start)]:
        yield Hit(
            f"{len(outside)} of {len(names)} tensors are passed over: expected names that begin with {start}, found "
            f"{listed(outside, 1)}",
            outside[0],
            traits.rewrite(target),
        )


def _names(subject: Subject, _target: EngineTarget) -> Iterator[Hit]:
    if wrong := [name for name in sorted(subject.facts.header.tensors) if "lora" not in name]:
        yield Hit(
            f"expected 'lora' in every tensor's name, found {len(wrong)} without, dropped by a model's loader, refused "
            f"by a pipeline's: {listed(wrong)}",
            wrong[0],
        )


def _no_rank(subject: Subject, target: EngineTarget) -> Iterator[Hit]:
    modules = subject.facts.modules
    if _reads_any(subject, target) and modules and all(module.kind == "embedding" for module in modules):
        yield Hit(
            f"expected a lora_B tensor to read the rank from, found none beside {modules[0].a_key}", modules[0].name
        )


def _reads_any(subject: Subject, target: EngineTarget) -> bool:
    start = target.text("prefix") + "."
    return any(map(str.startswith, subject.facts.header.tensors, repeat(start)))


def _is_unsaid(subject: Subject, target: EngineTarget) -> bool:
    return not _metadata(subject, target)


def _scaling(subject: Subject, target: EngineTarget) -> Iterator[Hit]:
    return traits.scaled_otherwise(subject, target, lambda _module: 1.0)


def _old_scaling(subject: Subject, target: EngineTarget) -> Iterator[Hit]:
    first = min((module for module in subject.facts.modules if module.kind != "embedding"), key=_key, default=None)
    if first is not None:
        alpha = first.b_shape[1] if len(first.b_shape) > 1 else first.rank
        yield from traits.scaled_otherwise(subject, target, lambda module: alpha / max(module.rank, 1))


def _key(module: ModuleFacts) -> str:
    return module.b_key


def _unlike(subject: Subject, target: EngineTarget) -> Iterator[Hit]:
    held = _metadata(subject, target)
    for key in _DECIDING if held else ():
        if (expected := subject.raw.get(key)) != (found := held.get(key)) and (expected or found):
            yield Hit(
                f"header {_KEY}: expected {key} {traits.short(expected)} as in the config, found {traits.short(found)}",
                key,
                traits.rewrite(target),
            )


def _broken(subject: Subject, _target: EngineTarget) -> Iterator[Hit]:
    if _KEY in subject.facts.header.metadata and _header(subject) is None:
        yield Hit(f"header {_KEY}: expected a JSON object, found something else", _KEY)


def _metadata(subject: Subject, target: EngineTarget) -> Mapping[str, Any]:
    """The configuration in the header, for the prefix asked for."""
    start = target.text("prefix") + "."
    held = _header(subject) or {}
    return {key.removeprefix(start): value for key, value in held.items() if key.startswith(start)}


def _header(subject: Subject) -> dict[str, Any] | None:
    try:
        held = json.loads(subject.facts.header.metadata.get(_KEY) or "{}")
    except (ValueError, RecursionError):
        return None
    return held if isinstance(held, dict) else None


RULES = (
    EngineRule("diffusers-type", "refuses", "The adapter is no LoRA.", _TYPE, traits.other_type),
    EngineRule("diffusers-prefix", "differs", "Tensors do not begin with the prefix.", _LOAD, _prefix, needs="tensors"),
    EngineRule("diffusers-names", "differs", "A tensor's name lacks 'lora'.", _LOAD, _names, needs="tensors"),
    EngineRule(
        "diffusers-shape",
        "refuses",
        "Block-diagonal or grouped factors.",
        _LOAD,
        traits.where(_reads_any, _SHAPED),
        needs="tensors",
    ),
    EngineRule("diffusers-no-rank", "refuses", "No tensor gives a rank.", _RANKS, _no_rank, needs="tensors"),
    EngineRule(
        "diffusers-scaling",
        "differs",
        "Every module is scaled by 1.",
        _GUESS,
        traits.where(_is_unsaid, _scaling),
        Span(since=MIRRORED),
        "tensors",
    ),
    EngineRule(
        "diffusers-first-alpha",
        "differs",
        "alpha is the first module's rank.",
        _OLD_GUESS,
        traits.where(_is_unsaid, _old_scaling),
        Span(before=MIRRORED),
        "tensors",
    ),
    EngineRule(
        "diffusers-initialisation",
        "differs",
        "An initialisation that changed the base is passed over.",
        _LOAD,
        traits.where(_is_unsaid, traits.changed_base),
    ),
    EngineRule(
        "diffusers-config",
        "differs",
        "A setting of the config matters and is not read.",
        _LOAD,
        traits.where(_is_unsaid, _PASSED_OVER),
    ),
    EngineRule("diffusers-metadata", "differs", "The header's settings are not the config's.", _METADATA, _unlike),
    EngineRule("diffusers-header", "refuses", "The header's settings are no JSON object.", _METADATA, _broken),
)

TABLE = Engine(
    "diffusers",
    "diffusers",
    Span(since="0.35", before="0.43"),
    "0.42.1",
    RULES,
    limits=(
        Limit("prefix", str, "transformer", "the loader's `prefix` argument; base_model.model reads PEFT's names"),
    ),
)
