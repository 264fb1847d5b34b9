"""Rules over the adapter's settings: unusual ones that change how it must be loaded, and extreme ones."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from engine.compat.rule import Hit, listed, strings
from engine.format.configs.settings import CHANGING_INITS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.compat.rule import Subject

_DTYPES = frozenset({"F32", "F16", "BF16"})
_MOST_RANK = 512
# PEFT's own advice is alpha = r to 2r; beyond these the update is a typing error more often than a choice.
_LEAST_RATIO, _MOST_RATIO = 1 / 64, 64
_MOST_BYTES = 1_000_000
_PATTERN_SIGNS = frozenset(r"\^$*+?{}[]|()")


def unknown_type(subject: Subject) -> Iterator[Hit]:
    if not subject.facts.config.known_type:
        yield Hit(
            f"peft_type: expected a type of peft 0.21.2, found {subject.facts.config.peft_type!r}", where="peft_type"
        )


def unknown_keys(subject: Subject) -> Iterator[Hit]:
    # nothing is known of the keys of an unknown type
    if subject.facts.config.known_type and (keys := subject.facts.config.unknown):
        yield Hit(f"keys that peft 0.21.2 ignores: {listed(keys, 8)}", where=keys[0])


def duplicate_keys(subject: Subject) -> Iterator[Hit]:
    if keys := subject.facts.config.duplicates:
        yield Hit(f"keys that stand twice, readers differ on which counts: {listed(keys, 8)}", where=keys[0])


def large_config(subject: Subject) -> Iterator[Hit]:
    if subject.facts.config.size > _MOST_BYTES:
        yield Hit(f"adapter_config.json has {subject.facts.config.size} bytes, expected at most {_MOST_BYTES}")


def regular_expression(subject: Subject) -> Iterator[Hit]:
    for key in ("target_modules", "exclude_modules"):
        value = subject.raw.get(key)
        if isinstance(value, str) and _PATTERN_SIGNS & frozenset(value):
            fix = "adapters convert REF --for sglang" if key == "target_modules" else None
            yield Hit(f"{key}: a regular expression, expected a list of names: {value[:80]}", key, fix)


def lora_bias(subject: Subject) -> Iterator[Hit]:
    if subject.raw.get("lora_bias"):
        yield Hit("lora_bias is on: serving engines refuse or drop it, and it cannot be merged", where="lora_bias")


def target_parameters(subject: Subject) -> Iterator[Hit]:
    if names := strings(subject.raw.get("target_parameters")):
        yield Hit(
            f"target_parameters adapts bare parameters, which few loaders read: {listed(names)}", "target_parameters"
        )


def layer_replication(subject: Subject) -> Iterator[Hit]:
    if subject.raw.get("layer_replication"):
        yield Hit(
            "layer_replication repeats layers of the base: only PEFT loads this, and it cannot be merged in",
            "layer_replication",
        )


def large_rank(subject: Subject) -> Iterator[Hit]:
    large = [module for module in subject.facts.modules if module.kind != "parameter" and module.rank > _MOST_RANK]
    if large:
        worst = max(large, key=lambda module: module.rank)
        yield Hit(
            f"{len(large)} modules have a rank above {_MOST_RANK}; the largest is {worst.rank} in {worst.name}",
            worst.name,
            f"adapters merge REF --combination resize --rank {_MOST_RANK} --into NAME",
        )


def extreme_scaling(subject: Subject) -> Iterator[Hit]:
    lora = subject.facts.config.lora
    if lora is None or lora.r <= 0:
        return
    if _is_extreme(lora.lora_alpha, lora.r):
        yield Hit(f"lora_alpha / r is {lora.lora_alpha} / {lora.r}, expected between 1/64 and 64", where="lora_alpha")
    elif found := [one for one in subject.facts.modules if _is_extreme(one.alpha, one.configured_rank or one.rank)]:
        first = found[0]
        yield Hit(
            f"{len(found)} modules have an alpha / rank by pattern outside 1/64 to 64: {first.name} has "
            f"{first.alpha:g} / {first.configured_rank or first.rank}",
            first.name,
        )


def _is_extreme(alpha: float, rank: int) -> bool:
    return rank > 0 and not _LEAST_RATIO <= abs(alpha) / rank <= _MOST_RATIO


def changed_base(subject: Subject) -> Iterator[Hit]:
    method = subject.raw.get("init_lora_weights")
    if isinstance(method, str) and method.lower().startswith(CHANGING_INITS):
        yield Hit(
            f"init_lora_weights {method!r:.80} changed the base it was trained on; it cannot be combined as it is",
            "init_lora_weights",
            "adapters convert REF --for vllm --initial INITIAL",
        )
    elif subject.raw.get("kasa_config"):
        yield Hit("kasa_config: KaSA cuts the base it is loaded on; it cannot be combined", "kasa_config")


def rank_stabilised(subject: Subject) -> Iterator[Hit]:
    lora = subject.facts.config.lora
    if lora is not None and lora.use_rslora and lora.r > 0:
        yield Hit(
            f"use_rslora: scaled by lora_alpha / sqrt(r), which is {math.sqrt(lora.r):.3g} times lora_alpha / r; what "
            "knows no rsLoRA scales by the latter",
            "use_rslora",
            "adapters convert REF --for sglang",
        )


def unusual_dtype(subject: Subject) -> Iterator[Hit]:
    tensors = subject.facts.header.tensors
    factors = sorted(key for module in subject.facts.modules for key in (module.a_key, module.b_key))
    if found := [key for key in factors if tensors[key].dtype not in _DTYPES]:
        kinds = ", ".join(sorted({tensors[key].dtype for key in found}))
        yield Hit(f"{len(found)} factors: expected F32, F16 or BF16, found {kinds}: {listed(found)}", found[0])


def training_mode(subject: Subject) -> Iterator[Hit]:
    if subject.raw.get("inference_mode") is False:
        yield Hit("inference_mode is false: saved by hand or by another tool, PEFT writes true", where="inference_mode")


def unnamed_base(subject: Subject) -> Iterator[Hit]:
    name = subject.base_name or subject.facts.config.base_model_name_or_path
    if name is None:
        if subject.base is None:
            yield Hit(
                "the config names no base model: nothing could be compared with it",
                "base_model_name_or_path",
                _GIVE_BASE,
            )
    elif subject.base_known is False and subject.base is None:
        yield Hit(
            f"the base {name!r} is not known here: nothing could be compared with it",
            "base_model_name_or_path",
            _ADD_BASE,
        )


_ADD_BASE = "adapters base add PATH --name NAME"
_GIVE_BASE = "give the base: --base B"


def unprinted_base(subject: Subject) -> Iterator[Hit]:
    if subject.base is not None and subject.base.fingerprint is None:
        yield Hit("the base is known from its config alone: its weights have no fingerprint to compare", fix=_ADD_BASE)
