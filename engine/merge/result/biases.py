"""Biases that LoRA trains inside lora_B (lora_bias): a module's effect is scaling·bias, so a weighted sum holds it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.compat.together.biases import RULE, bias_key, have_biases
from engine.format.names.keys import PREFIX
from engine.merge.result.carried import Carried, Origin

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.format.facts import AdapterFacts
    from engine.merge.plan import ModulePlan


def summed_biases(parents: Sequence[AdapterFacts], modules: Sequence[ModulePlan], dtype: str) -> tuple[Carried, ...]:
    """Σ w_i·scaling_i·bias_i of every module of the result, zeros where no parent has one; none where none does.

    PEFT gives a bias to all modules of an adapter or to none.
    """
    if not have_biases(parents):
        return ()
    return tuple(_summed(parents, module, dtype) for module in modules)


def _summed(parents: Sequence[AdapterFacts], module: ModulePlan, dtype: str) -> Carried:
    origins = tuple(
        Origin(piece.parent, facts, facts.header.tensors[key], piece.module.scaling)
        for piece in module.pieces
        if (key := bias_key(piece.module)) and (facts := parents[piece.parent])
    )
    name = f"{PREFIX}{module.name}.lora_B.bias"
    return Carried(name, dtype, module.b_shape[:1], module.name, origins, "sum", RULE)
