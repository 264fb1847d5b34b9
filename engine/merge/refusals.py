"""What a merge cannot carry through: one row per reason, judged from config and tensor names. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from engine.compat.finding import Finding
from engine.merge.dtypes import READABLE

if TYPE_CHECKING:
    from engine.format.facts import AdapterFacts

Config = Mapping[str, Any]

MUTATING = ("pissa", "olora", "corda", "lora_ga", "loftq")
"""Values of init_lora_weights, or their beginning, that subtract the start factors from the base weights."""

VARIANTS = {
    "alora_invocation_tokens": "aLoRA, active only behind its invocation tokens",
    "use_qalora": "QALoRA, whose A sees pooled inputs",
    "use_bdlora": "BD-LoRA, whose factors are block-diagonal",
    "arrow_config": "an Arrow router",
    "velora_config": "VeLoRA",
    "monteclora_config": "MonteCLoRA, whose factors are sampled",
}
"""Config keys of LoRA variants whose effect is not scaling·B·A."""


def _of_type(facts: AdapterFacts, config: Config) -> Iterator[str]:
    kind = config.get("peft_type")
    if kind != "LORA":
        yield f"is {kind}, only LORA adapters are merged"
    for key, what in VARIANTS.items():
        if config.get(key):
            yield f"is {what} ({key})"
    del facts


def _dora(facts: AdapterFacts, config: Config) -> Iterator[str]:
    if config.get("use_dora") or _extras(facts, "lora_magnitude_vector"):
        yield "is a DoRA adapter: its magnitude vectors rescale the base weights, so no sum of ΔW holds it"


def _lora_bias(facts: AdapterFacts, config: Config) -> Iterator[str]:
    if config.get("lora_bias") or _extras(facts, "lora_B.bias"):
        yield "trains a bias inside lora_B (lora_bias)"


def _bias(facts: AdapterFacts, config: Config) -> Iterator[str]:
    del facts
    if config.get("bias", "none") not in (None, "none"):
        yield f"trains biases of the base (bias={config['bias']!r})"


def _trainable_tokens(facts: AdapterFacts, config: Config) -> Iterator[str]:
    if config.get("trainable_token_indices") or _named(facts, "trainable_tokens_delta"):
        yield "replaces embedding rows (trainable_token_indices)"


def _target_parameters(facts: AdapterFacts, config: Config) -> Iterator[str]:
    if config.get("target_parameters") or any(module.kind == "parameter" for module in facts.modules):
        yield "adapts bare parameters (target_parameters), whose names are not in the file"


def _mutated_base(facts: AdapterFacts, config: Config) -> Iterator[str]:
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(MUTATING):
        yield f"was initialised with {start!r}, which changed the base weights it was trained on"
    if config.get("kasa_config") or _extras(facts, "lora_diag"):
        yield "is a KaSA adapter, which truncated the base weights it was trained on"


def _tensors(facts: AdapterFacts, config: Config) -> Iterator[str]:
    if config.get("peft_type") != "LORA":
        return
    for module, names in facts.incomplete.items():
        yield f"module {module} has only {', '.join(names)}"
    for name in facts.unmatched:
        yield f"tensor {name} belongs to nothing in the config"
    if not (facts.modules or facts.incomplete):
        yield "holds no LoRA factors"


def _values(facts: AdapterFacts, config: Config) -> Iterator[str]:
    del config
    for module in facts.modules:
        for key in (module.a_key, module.b_key):
            dtype = facts.header.tensors[key].dtype
            if dtype not in READABLE:
                yield f"tensor {key} is {dtype}, no floating dtype that can be merged"


RULES: dict[str, Callable[[AdapterFacts, Config], Iterator[str]]] = {
    "merge-type": _of_type,
    "merge-dora": _dora,
    "merge-lora-bias": _lora_bias,
    "merge-bias": _bias,
    "merge-trainable-tokens": _trainable_tokens,
    "merge-target-parameters": _target_parameters,
    "merge-mutated-base": _mutated_base,
    "merge-tensors": _tensors,
    "merge-values": _values,
}
"""Rules over one parent; `disagreements` adds those over several."""


def refusals(parents: Sequence[tuple[AdapterFacts, Config]]) -> Iterator[Finding]:
    """Every reason why these parents cannot be merged, parent by parent, then between them."""
    for facts, config in parents:
        for rule, judge in RULES.items():
            for reason in judge(facts, config):
                yield refusal(rule, f"{facts.path.name} {reason}", target=str(facts.path))
    yield from _disagreements(parents)


def refusal(rule: str, message: str, *, target: str = "merge", where: str | None = None) -> Finding:
    """An error finding of a merge rule."""
    return Finding(rule=rule, severity="error", message=message, target=target, where=where)


def _disagreements(parents: Sequence[tuple[AdapterFacts, Config]]) -> Iterator[Finding]:
    layouts = {str(config.get("layer_replication") or None) for _, config in parents}
    if len(layouts) > 1:
        message = f"parents replicate layers differently: layer_replication is {' and '.join(sorted(layouts))}"
        yield refusal("merge-replication", message)


def _extras(facts: AdapterFacts, ending: str) -> bool:
    return any(extra.endswith(ending) for module in facts.modules for extra in module.extras) or _named(facts, ending)


def _named(facts: AdapterFacts, ending: str) -> bool:
    return any(name.endswith(ending) for name in facts.header.tensors)
