"""DoRA parents of a merge: their ΔW is of full rank and only the base's weights tell it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.compat.together.refusals import refusal
from engine.format.names.keys import parse_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.compat.finding import Finding
    from engine.format.facts import AdapterFacts

RULE = "merge-dora"


def dora_parents(parents: Sequence[AdapterFacts]) -> list[AdapterFacts]:
    """Those that train magnitude vectors."""
    return [
        facts
        for facts in parents
        if (facts.config.lora and facts.config.lora.use_dora)
        or any(parse_key(name).role == "magnitude" for name in facts.header.tensors)
    ]


def dora_refusal(facts: AdapterFacts, method: str, *, with_base: bool, takes: bool) -> Finding | None:
    """Why the method cannot take this DoRA adapter, as far as the base need not be read; `takes` dense ΔW or not."""
    reason = None
    if not with_base:
        reason = "whose magnitudes rescale the base weights, so its ΔW needs them: give --base PATH"
    elif not takes:
        reason = f"whose ΔW has full rank, which {method} does not take: give it a rank first (resize, with --base)"
    elif facts.config.lora is not None and facts.config.lora.layer_replication:
        reason = "with replicated layers, which the base's checkpoint does not hold"
    if reason is None:
        return None
    return refusal(RULE, f"{facts.path.name} is a DoRA adapter, {reason}", target=str(facts.path))
