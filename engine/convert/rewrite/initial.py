"""PiSSA, OLoRA, CorDA and LoRA-GA as plain LoRA: what training added to the factors that it began with."""

from __future__ import annotations

from math import isclose, sqrt
from typing import TYPE_CHECKING

from engine.convert.rewrite.draft import NEEDS_INITIAL, as_is, number, refused
from engine.convert.rewrite.pairs import Pair, beside, pair_of, require_plain, scaled

if TYPE_CHECKING:
    from engine.convert.rewrite.draft import Draft, Made
    from engine.format.facts import AdapterFacts

_SUBTRACTED = ("pissa", "olora", "corda", "lora_ga")
_SECTIONS = ("corda_config", "lora_ga_config")


def without_initial(draft: Draft, initial: AdapterFacts | None) -> Draft:
    """The draft with A = [A; A0] and B = [B, -B0] in every module, at twice the rank and the same scaling.

    Training ran on W - s·B0·A0, so W + s·(B·A - B0·A0) is what it computed at its end. Refuses an `initial` of other
    modules, shapes or scalings, and initialisations that changed the base in another way.
    """
    facts = draft.facts()
    require_plain(facts, "subtract the initial adapter")
    _check_method(facts, initial)
    assert initial is not None
    lora = facts.config.lora
    assert lora is not None
    pairs = [pair_of(draft, module) for module in facts.modules]
    begun = _initial_pairs(pairs, initial)
    tensors: dict[str, Made] = {}
    for pair, start in zip(pairs, begun, strict=True):
        tensors |= beside(pair, scaled(start, -1.0)).tensors()
    more = sqrt(2) if lora.use_rslora else 2
    changed = draft.with_tensors(tensors).with_config(
        r=2 * lora.r,
        lora_alpha=number(more * lora.lora_alpha),
        rank_pattern={key: 2 * rank for key, rank in lora.rank_pattern.items()},
        alpha_pattern={key: number(more * alpha) for key, alpha in lora.alpha_pattern.items()},
        init_lora_weights=True,
    )
    return changed.with_config(**{key: None for key in _SECTIONS if draft.config.get(key) is not None})


def _check_method(facts: AdapterFacts, initial: AdapterFacts | None) -> None:
    lora = facts.config.lora
    method = str(lora.init_lora_weights) if lora else ""
    if not method.lower().startswith(_SUBTRACTED):
        raise refused(
            "initial",
            f"init_lora_weights {method!r:.80}: expected one of {', '.join(_SUBTRACTED)}, whose change to the base is "
            "the product of its first factors",
            where="init_lora_weights",
        )
    if initial is None:
        raise refused(
            "initial",
            f"init_lora_weights {method!r:.80}: the adapter as it was before training is needed",
            where="init_lora_weights",
            fix=NEEDS_INITIAL,
        )
    if lora is not None and lora.use_dora:
        raise refused("dora", "use_dora: its magnitudes hold for one pair of factors, not for two", where="use_dora")


def _initial_pairs(pairs: list[Pair], initial: AdapterFacts) -> list[Pair]:
    """The initial adapter's factors, module by module in the same order."""
    theirs = {module.name: module for module in initial.modules}
    names = {pair.module.name for pair in pairs}
    if wrong := sorted(names ^ theirs.keys()):
        whose = "the initial adapter lacks it" if wrong[0] in names else "the adapter lacks it"
        raise refused("initial", f"{wrong[0]}: {whose}; expected the same modules in both", where=wrong[0])
    found = []
    for pair in pairs:
        start = theirs[pair.module.name]
        ours = (pair.module.a_shape, pair.module.b_shape, pair.rank)
        if ours != (start.a_shape, start.b_shape, start.configured_rank):
            raise refused(
                "initial",
                f"{start.name}: expected factors {list(ours[0])} and {list(ours[1])} in the initial adapter, found "
                f"{list(start.a_shape)} and {list(start.b_shape)}",
                where=start.name,
            )
        if not isclose(pair.module.scaling, start.scaling, rel_tol=1e-9):
            raise refused(
                "initial",
                f"{start.name}: expected scaling {pair.module.scaling:g} in the initial adapter, found "
                f"{start.scaling:g}",
                where=start.name,
            )
        A, B = (as_is("initial", initial.header.tensors[key]) for key in (start.a_key, start.b_key))
        found.append(Pair(start, A, B, pair.rank, pair.blocks, pair.groups))
    return found
