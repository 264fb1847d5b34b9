"""What a merge cannot carry through: one row per reason, judged from config and tensor names. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.compat.finding import Finding
from engine.format.configs.settings import CHANGING_INITS
from engine.format.files.dtypes import READABLE
from engine.format.names.keys import parse_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from engine.format.configs.settings import LoraSettings
    from engine.format.facts import AdapterFacts

VARIANTS = {
    "alora_invocation_tokens": "aLoRA, active only behind its invocation tokens",
    "use_qalora": "QALoRA, whose A sees pooled inputs",
    "use_bdlora": "BD-LoRA, whose factors are block-diagonal",
    "arrow_config": "an Arrow router",
    "velora_config": "VeLoRA",
    "monteclora_config": "MonteCLoRA, whose factors are sampled",
}
"""Config keys of LoRA variants whose effect is not scaling·B·A."""


def _variant(facts: AdapterFacts, lora: LoraSettings) -> Iterator[str]:
    del facts
    for key, what in VARIANTS.items():
        if getattr(lora, key):
            yield f"is {what} ({key})"


def _mutated_base(facts: AdapterFacts, lora: LoraSettings) -> Iterator[str]:
    start = lora.init_lora_weights
    if isinstance(start, str) and start.lower().startswith(CHANGING_INITS):
        yield f"was initialised with {start!r}, which changed the base weights it was trained on"
    if lora.kasa_config is not None or _holds(facts, "diag"):
        yield "is a KaSA adapter, which truncated the base weights it was trained on"


def _tensors(facts: AdapterFacts, lora: LoraSettings) -> Iterator[str]:
    del lora
    for module, names in facts.incomplete.items():
        yield f"module {module} has only {', '.join(names)}"
    for name in facts.unmatched:
        yield f"tensor {name} belongs to nothing in the config"
    if not (facts.modules or facts.incomplete):
        yield "holds no LoRA factors"


def _values(facts: AdapterFacts, lora: LoraSettings) -> Iterator[str]:
    del lora
    for module in facts.modules:
        for key in (module.a_key, module.b_key):
            dtype = facts.header.tensors[key].dtype
            if dtype not in READABLE:
                yield f"tensor {key} is {dtype}, no floating dtype that can be merged"


MEANINGS: Mapping[str, str] = {
    "merge-type": "Another type than LoRA or IA3, both together, or a variant whose effect is not scaling·B·A.",
    "merge-dora": "DoRA without its base, beside a base that does not fit, or for a method that takes no dense ΔW.",
    "merge-mutated-base": "An initialisation changed the base weights that the adapter was trained on.",
    "merge-tensors": "Half pairs, tensors that the config does not explain, or nothing to merge.",
    "merge-values": "No floating dtype, NaN or infinities, or a result that overflows its dtype.",
    "merge-shapes": "Factors that do not multiply or do not agree with the config or the other parents'.",
    "merge-replication": "Layers are replicated differently in the parents.",
    "merge-target-parameters": "Bare parameters whose names, ranks or layout the files leave open.",
    "merge-modules-to-save": "Full copies in several parents, or above another parent's factors.",
    "merge-bias": "Biases of the base in several parents.",
    "merge-trainable-tokens": "Token rows in several parents, of other tokens, or of an adapted embedding.",
    "merge-lora-bias": "Biases inside lora_B for a method that sums no ΔW, or that PEFT could not load.",
    "merge-peft": "What PEFT's own merge raises on or loses, under `--semantics peft`.",
}
"""Every rule by which a merge is refused, and what it means."""

RULES: dict[str, Callable[[AdapterFacts, LoraSettings], Iterator[str]]] = {
    "merge-type": _variant,
    "merge-mutated-base": _mutated_base,
    "merge-tensors": _tensors,
    "merge-values": _values,
}
"""Rules over one LoRA parent; `refusals` adds those over several."""


def refusals(parents: Sequence[AdapterFacts]) -> Iterator[Finding]:
    """Every reason why these parents cannot be merged, parent by parent, then between them."""
    for facts in parents:
        lora = facts.config.lora
        if lora is None:
            kind = facts.config.peft_type
            yield _about(facts, "merge-type", f"is of type {kind}; only LORA adapters, or IA3 alone, are merged")
            continue
        for rule, judge in RULES.items():
            for reason in judge(facts, lora):
                yield _about(facts, rule, reason)
    layouts = {str(facts.config.lora.layer_replication or None) for facts in parents if facts.config.lora}
    if len(layouts) > 1:
        message = f"parents replicate layers differently: layer_replication is {' and '.join(sorted(layouts))}"
        yield refusal("merge-replication", message)


def refusal(rule: str, message: str, *, target: str = "merge", where: str | None = None) -> Finding:
    """An error finding of a merge rule, one of `MEANINGS`."""
    if rule not in MEANINGS:
        raise ValueError(f"{rule} is no merge rule")
    return Finding(rule=rule, severity="error", message=message, target=target, where=where)


def _about(facts: AdapterFacts, rule: str, reason: str) -> Finding:
    return refusal(rule, f"{facts.path.name} {reason}", target=str(facts.path))


def _holds(facts: AdapterFacts, role: str) -> bool:
    return any(parse_key(name).role == role for name in facts.header.tensors)
