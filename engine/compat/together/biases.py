"""Biases that LoRA trains inside lora_B (lora_bias): only a sum of the ΔW carries them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.compat.together.refusals import refusal
from engine.format.files.dtypes import READABLE
from engine.format.names.keys import parse_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from engine.compat.finding import Finding
    from engine.format.facts import AdapterFacts, ModuleFacts

RULE = "merge-lora-bias"


def have_biases(parents: Sequence[AdapterFacts]) -> bool:
    """Whether any parent trains such biases."""
    return any(bias_key(module) for facts in parents for module in facts.modules)


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
            key = bias_key(module)
            if key and (
                facts.header.tensors[key].shape != module.b_shape[:1] or facts.header.tensors[key].dtype not in READABLE
            ):
                found = facts.header.tensors[key]
                message = f"{key} is {found.dtype} {list(found.shape)}, expected floats {list(module.b_shape[:1])}"
                yield refusal(RULE, message, where=key)


def bias_key(module: ModuleFacts) -> str | None:
    return next((key for key in module.extras if parse_key(key).role == "lora_bias"), None)
