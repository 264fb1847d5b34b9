"""What several parents hold besides factors, and cannot all keep: full copies, biases, token rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from engine.compat.together.refusals import refusal
from engine.format.names.keys import parse_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from engine.compat.finding import Finding
    from engine.format.configs.settings import LoraSettings
    from engine.format.facts import AdapterFacts

Other = Literal["average", "first", "refuse"]

RULE = "merge-modules-to-save"

RULES: Mapping[str, str] = {
    "modules_to_save": RULE,
    "embedding": RULE,
    "bias": "merge-bias",
    "tokens": "merge-trainable-tokens",
}
"""The roles that are carried, each with the rule that may refuse it; every other one has its own refusal."""

WHAT = {
    "modules_to_save": "train full copies of modules (modules_to_save)",
    "bias": "train biases of the base (bias)",
    "tokens": "replace embedding rows (trainable_token_indices)",
}
"""What several parents do that needs a decision."""

DECIDES = "; --other average or first decides"


def having(parents: Iterable[AdapterFacts], role: str) -> list[AdapterFacts]:
    """Those with a tensor of that role."""
    return [facts for facts in parents if role in facts.others.values()]


def undecided(parents: Sequence[AdapterFacts], other: Other) -> Iterator[Finding]:
    """What several hold and only a decision can join."""
    for role, what in WHAT.items():
        found = having(parents, role)
        if other == "refuse" and len(found) > 1:
            names = ", ".join(facts.path.name for facts in found)
            yield refusal(RULES[role], f"{names} each {what}{DECIDES}")


def unlike_tokens(parents: Sequence[AdapterFacts], other: Other) -> Iterator[Finding]:
    """Rows of different tokens have no mean, and PEFT replaces no rows of an embedding that is adapted or saved."""
    rule = RULES["tokens"]
    found = having(parents, "tokens")
    if other == "average" and len({str(lora_of(facts).trainable_token_indices) for facts in found}) > 1:
        names = ", ".join(facts.path.name for facts in found)
        yield refusal(rule, f"{names} replace rows of different tokens, which have no mean; --other first takes one's")
    replaced = token_modules(parents)
    for facts in parents:
        for module in facts.modules:
            if module.name in replaced:
                message = f"{facts.path.name} adapts {module.name}, of which another parent replaces rows"
                yield refusal(rule, message, where=module.name)


def lora_of(facts: AdapterFacts) -> LoraSettings:
    """The settings of an adapter that has biases or token rows."""
    if facts.config.lora is None:
        raise ValueError("only LoRA adapters hold token rows")
    return facts.config.lora


def token_modules(parents: Iterable[AdapterFacts]) -> frozenset[str]:
    """The embeddings of which some parent replaces rows."""
    return frozenset(
        parse_key(name).module for facts in parents for name, role in facts.others.items() if role == "tokens"
    )


def saved_modules(facts: AdapterFacts) -> Iterator[str]:
    """The entries of modules_to_save, and the modules of heads that PEFT adds for a task without saying so."""
    if "modules_to_save" not in facts.others.values():
        return
    entries = (facts.config.lora.modules_to_save if facts.config.lora else None) or ()
    yield from entries
    for name, role in facts.others.items():
        if role == "modules_to_save" and not any(_inside(name, entry) for entry in entries):
            yield parse_key(name).module


def _inside(tensor: str, module: str) -> bool:
    """Whether the tensor lies in a module whose name ends in `module`, PEFT's own rule (no dot needed before it)."""
    parts = tensor.split(".")
    return any(".".join(parts[:count]).endswith(module) for count in range(1, len(parts)))


def collisions(parents: Iterable[AdapterFacts], saved: Iterable[str]) -> Iterator[Finding]:
    """One parent's LoRA below another's full copy: PEFT would load the copy and lose the factors."""
    for facts in parents:
        for module in facts.modules:
            for name in saved:
                if _inside(f"{module.name}.weight", name):
                    message = f"{facts.path.name} adapts {module.name}, of which another parent saves a full copy"
                    yield refusal(RULE, message, where=module.name)
