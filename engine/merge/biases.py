"""Biases that LoRA trains inside lora_B (lora_bias): a module's effect is scaling·bias, so a weighted sum holds it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.format.keys import PREFIX, parse_key
from engine.merge.carried import Carried, Origin
from engine.merge.dtypes import READABLE
from engine.merge.refusals import refusal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from engine.compat.finding import Finding
    from engine.format.facts import AdapterFacts, ModuleFacts
    from engine.merge.plan import ModulePlan

RULE = "merge-lora-bias"


def have_biases(parents: Sequence[AdapterFacts]) -> bool:
    """Whether any parent trains such biases."""
    return any(_bias_key(module) for facts in parents for module in facts.modules)


def bias_findings(parents: Sequence[AdapterFacts], method: str, *, linear: bool) -> Iterator[Finding]:
    """Why the biases cannot be carried; `linear` says that the method sums the ΔW."""
    if not have_biases(parents):
        return
    if not linear:
        yield refusal(RULE, f"biases inside lora_B (lora_bias) are summed exactly or not at all; {method} sums no ΔW")
    for facts in parents:
        for module in facts.modules:
            if module.kind in ("embedding", "parameter"):
                message = (
                    f"{facts.path.name} adapts {module.name}, of kind {module.kind}, which PEFT lets no adapter do"
                )
                yield refusal(RULE, f"{message} that has biases in lora_B (lora_bias)", where=module.name)
            key = _bias_key(module)
            if key and (
                facts.header.tensors[key].shape != module.b_shape[:1] or facts.header.tensors[key].dtype not in READABLE
            ):
                found = facts.header.tensors[key]
                message = f"{key} is {found.dtype} {list(found.shape)}, expected floats {list(module.b_shape[:1])}"
                yield refusal(RULE, message, where=key)


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
        if (key := _bias_key(piece.module)) and (facts := parents[piece.parent])
    )
    name = f"{PREFIX}{module.name}.lora_B.bias"
    return Carried(name, dtype, module.b_shape[:1], module.name, origins, "sum", RULE)


def _bias_key(module: ModuleFacts) -> str | None:
    return next((key for key in module.extras if parse_key(key).role == "lora_bias"), None)
