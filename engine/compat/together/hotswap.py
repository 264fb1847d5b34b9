"""Rules for one slot: PEFT puts one adapter's tensors in another's place while the model runs.

What peft 0.21.2 does in `utils/hotswap.py` decides: it compares four settings, wants every incoming tensor to have a
place, fills places without one with zeros, and takes scalings from r and lora_alpha alone.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from engine.compat.rule import Hit, listed
from engine.compat.together import siblings
from engine.compat.together.group import GroupRule, name_of, values_in_words
from engine.compat.together.parameters import experts
from engine.compat.together.slot import SETTINGS, groups, lora_keys, slot_of
from engine.format.configs.settings import CHANGING_INITS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.compat.together.group import Group
    from engine.format.configs.settings import LoraSettings
    from engine.format.facts import AdapterFacts, ModuleFacts

_FOLD = "adapters convert REF --for sglang"
_CLOSE = 1e-9
# Roles of tensors outside lora_: PEFT finds no place for them in the slot, or leaves the old ones there.
_LEFT_BEHIND = {
    "modules_to_save": "full copies of modules (modules_to_save)",
    "bias": "biases of the base (bias)",
    "tokens": "embedding rows (trainable_token_indices)",
    "embedding": "whole embeddings",
}
# Kinds whose factors PEFT writes into a larger place not at all, or without regard to where the ranks lie.
_FIXED_RANK = {"conv1d": "raises", "conv3d": "raises", "parameter": "computes another function"}


def settings(group: Group) -> Iterator[Hit]:
    for key in SETTINGS:
        found = [(facts, getattr(lora, key)) for facts, lora in group.loras()]
        if any(value != found[0][1] for _, value in found):
            fix = _FOLD if key in ("use_rslora", "alpha_pattern") else None
            yield Hit(f"{key}: expected one value in all, found {values_in_words(found)}", key, fix)


def scalings(group: Group) -> Iterator[Hit]:
    for facts, lora in group.loras():
        plain = lora.lora_alpha / (math.sqrt(lora.r) if lora.use_rslora else lora.r) if lora.r > 0 else 0.0
        wrong = [one for one in facts.modules if abs(one.scaling - plain) > _CLOSE * max(abs(one.scaling), abs(plain))]
        if wrong:
            yield Hit(
                f"{name_of(facts)}: {len(wrong)} modules have a scaling of their own by rank_pattern or alpha_pattern, "
                f"which a swap passes over: {wrong[0].name} expected {wrong[0].scaling:g}, gets {plain:g}",
                wrong[0].name,
                _FOLD,
            )


def places(group: Group) -> Iterator[Hit]:
    """Every incoming tensor needs a place, so one adapter, loaded first, holds all that the others have."""
    if slot_of(group.adapters).load_first is not None:
        return
    everything = {key for facts in group.adapters for key in lora_keys(facts)}
    for facts in group.adapters:
        missing = sorted(everything - lora_keys(facts))
        yield Hit(
            f"{name_of(facts)} lacks {len(missing)} of {len(everything)} tensors that the others have: "
            f"{listed(missing)}; expected one adapter, loaded first, that has them all",
            missing[0],
        )


def order(group: Group) -> Iterator[Hit]:
    first, given = slot_of(group.adapters).load_first, name_of(group.adapters[0])
    if first is not None and not all(lora_keys(facts) <= lora_keys(group.adapters[0]) for facts in group.adapters):
        yield Hit(f"load {first} first, {given} has no place for all of its tensors")


def magnitudes(group: Group) -> Iterator[Hit]:
    found = [name_of(facts) for facts, lora in group.loras() if lora.use_dora]
    if found:
        yield Hit(f"DoRA magnitudes cannot be swapped: {listed(found)}", "use_dora")


def embeddings(group: Group) -> Iterator[Hit]:
    for facts in group.adapters:
        for module in _of_kind(facts, "embedding"):
            yield Hit(
                f"{name_of(facts)} adapts the embedding {module.name}, whose factors cannot be swapped", module.name
            )


def left_behind(group: Group) -> Iterator[Hit]:
    """PEFT raises where they come in, and keeps them where they should go out."""
    for facts in group.adapters:
        for role in sorted(_LEFT_BEHIND.keys() & set(facts.others.values())):
            name = min(name for name, found in facts.others.items() if found == role)
            yield Hit(f"{name_of(facts)} holds {_LEFT_BEHIND[role]}, which cannot be swapped", name)


def changed_base(group: Group) -> Iterator[Hit]:
    """Only PiSSA of equal ranks takes the same from the base, whichever adapter it was loaded with."""
    if _alike_pissa(group):
        return
    for facts, lora in group.loras():
        if (method := changing(lora)) is not None:
            yield Hit(
                f"{name_of(facts)}: {method} changed the base it was trained on, which a swap does not do again",
                "init_lora_weights",
                "adapters convert REF --for vllm --initial INITIAL",
            )


def _alike_pissa(group: Group) -> bool:
    modules = [{(one.name, one.rank) for one in facts.modules} for facts in group.adapters]
    return all(one == modules[0] for one in modules) and all(
        str(lora.init_lora_weights).lower() == "pissa" and lora.kasa_config is None for _, lora in group.loras()
    )


def changing(lora: LoraSettings) -> str | None:
    """What in the settings makes PEFT change the base's weights when it loads the adapter, None for nothing."""
    if lora.kasa_config is not None:
        return "kasa_config"
    method = lora.init_lora_weights
    # PEFT does lora_ga's subtraction in training alone
    if isinstance(method, str) and method.lower().startswith(CHANGING_INITS) and method.lower() != "lora_ga":
        return f"init_lora_weights {method!r:.80}"
    return None


def fixed_ranks(group: Group) -> Iterator[Hit]:
    seen: dict[str, tuple[AdapterFacts, ModuleFacts]] = {}
    for facts in group.adapters:
        for module in _of_kind(facts, *_FIXED_RANK):
            if module.kind == "parameter" and experts(module) < 2:
                continue
            first, other = seen.setdefault(module.name, (facts, module))
            if other.a_shape[0] != module.a_shape[0]:
                yield Hit(
                    f"module {module.name} ({module.kind}): expected equal ranks, found {name_of(first)} {other.rank}, "
                    f"{name_of(facts)} {module.rank}; PEFT {_FIXED_RANK[module.kind]}",
                    module.name,
                )


def grouped_ranks(group: Group) -> Iterator[Hit]:
    ranks = {facts.rank for facts in group.adapters}
    convolutions = [module for facts in group.adapters for module in facts.modules if groups(module) > 1]
    if len(ranks) > 1 and convolutions:
        step = groups(convolutions[0])
        yield Hit(
            f"the slot's rank must be a multiple of {step}, the groups of {convolutions[0].name}", convolutions[0].name
        )


def ranks(group: Group) -> Iterator[Hit]:
    slot = slot_of(group.adapters)
    small = [name for name, rank in slot.ranks.items() if rank < slot.target_rank]
    if small:
        yield Hit(
            f"make the slot's rank {slot.target_rank} before the model is compiled (target_rank of "
            f"prepare_model_for_compiled_hotswap); {len(small)} of {len(slot.ranks)} adapters have less"
        )


def _of_kind(facts: AdapterFacts, *kinds: str) -> Iterator[ModuleFacts]:
    return (module for module in facts.modules if module.kind in kinds)


RULES: tuple[GroupRule, ...] = (
    GroupRule("hotswap-alone", "error", "Fewer than two adapters were given.", siblings.too_few),
    GroupRule("hotswap-type", "error", "An adapter is no LoRA.", siblings.other_type),
    GroupRule("hotswap-base", "error", "The adapters are for different bases.", siblings.different_bases),
    GroupRule("hotswap-base-unnamed", "warning", "An adapter names no base.", siblings.unnamed_base),
    GroupRule("hotswap-replication", "error", "Layers are repeated differently.", siblings.different_replication),
    GroupRule("hotswap-settings", "error", "use_rslora, lora_dropout, alpha_pattern or use_dora differ.", settings),
    GroupRule("hotswap-places", "error", "No adapter has a place for every tensor of the others.", places),
    GroupRule(
        "hotswap-shape", "error", "A module's factors are for weights of different shapes.", siblings.different_shapes
    ),
    GroupRule("hotswap-scaling", "error", "A pattern gives a module a scaling that a swap passes over.", scalings),
    GroupRule("hotswap-dora", "error", "An adapter is DoRA.", magnitudes),
    GroupRule("hotswap-embedding", "error", "An adapter adapts an embedding.", embeddings),
    GroupRule("hotswap-copies", "error", "An adapter holds tensors that stay out of a swap.", left_behind),
    GroupRule("hotswap-changed-base", "error", "An initialisation changed the base.", changed_base),
    GroupRule("hotswap-rank", "error", "Ranks differ where PEFT cannot fill up with zeros.", fixed_ranks),
    GroupRule("hotswap-groups", "info", "The slot's rank must be a multiple of a convolution's groups.", grouped_ranks),
    GroupRule("hotswap-order", "info", "One adapter must be loaded first.", order),
    GroupRule("hotswap-target-rank", "info", "The slot needs a larger rank than some adapters have.", ranks),
)
