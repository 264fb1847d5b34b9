"""Adapters that are no change of the base as it is: refused by name, with what to do where there is something."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.compat.engines.own import TYPES, VARIANTS
from engine.compat.finding import Finding
from engine.format.settings import CHANGING_INITS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.format.facts import AdapterFacts


def unsupported(facts: AdapterFacts) -> Iterator[Finding]:
    """Every reason in the configuration, and every tensor that belongs nowhere."""
    if facts.config.peft_type not in TYPES:
        message = f"peft_type: expected {', '.join(TYPES)}, found {facts.config.peft_type}"
        yield Finding("own-type", "error", message, where="peft_type")
    lora = facts.config.lora
    if lora is None:
        return
    for key, name in VARIANTS.items():
        if getattr(lora, key):
            yield Finding("own-variant", "error", f"{key}: {name} is not run here", where=key)
    init = lora.init_lora_weights
    if isinstance(init, str) and init.lower().startswith(CHANGING_INITS):
        yield _changed_base(init)
    for name in facts.unmatched:
        yield Finding("tensor-unmatched", "error", f"{name}: nothing in the config explains it", where=name)
    for path, present in facts.incomplete.items():
        yield Finding("pair-incomplete", "error", f"{path}: has only {', '.join(present)}", where=path)


def _changed_base(init: str) -> Finding:
    """LoftQ's base is kept quantised, of the others the start factors are subtracted: their sum is plain LoRA."""
    if init.lower().startswith("loftq"):
        advice = "train it on the base as it is, without LoftQ"
        fix = None
    else:
        fix = "adapters convert REF --for vllm --initial INITIAL"
        advice = f"{fix} makes plain LoRA of it, with INITIAL the adapter as it was before training"
    message = f"init_lora_weights {init!r:.80} changed the base it was trained on, which the model's is not; {advice}"
    return Finding("init-changed-base", "error", message, where="init_lora_weights", fix=fix)
