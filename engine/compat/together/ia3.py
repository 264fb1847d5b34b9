"""IA3 adapters that meet: a vector per module that scales its output, or in feed-forward modules its input."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from engine.compat.together.refusals import refusal
from engine.errors import ConfigError, PatternError
from engine.format.configs.patterns import compile_bounded
from engine.format.facts import ModuleFacts
from engine.format.files.dtypes import READABLE
from engine.format.names.keys import parse_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from engine.compat.finding import Finding
    from engine.format.facts import AdapterFacts

TYPE = "IA3"
LEAF = "ia3_l"
METHOD = "linear"

PATTERN_SECONDS = 0.2
"""A stored expression is untrusted."""


def all_ia3(parents: Sequence[AdapterFacts]) -> bool:
    """Whether every parent is an IA3 adapter."""
    return all(facts.config.peft_type == TYPE for facts in parents)


def with_vectors(facts: AdapterFacts) -> AdapterFacts:
    """The adapter with a module for each of its vectors, full copies among its others, and the rest unmatched."""
    if facts.config.peft_type != TYPE:
        return facts
    saved = _entries(facts, "modules_to_save")
    modules, others, unmatched = [], {}, []
    for name, info in facts.header.tensors.items():
        key = parse_key(name)
        if key.leaf == LEAF and key.module:
            one = ModuleFacts(key.module, "unknown", 1, 1.0, 1.0, info.shape, info.shape, info.dtype, name, name)
            modules.append(one)
        elif any(f"{entry}." in f"{key.module}." for entry in saved):
            others[name] = "modules_to_save"
        else:
            unmatched.append(name)
    modules.sort(key=lambda module: module.name)
    return replace(facts, modules=tuple(modules), others=others, unmatched=tuple(sorted(unmatched)))


def ia3_refusals(parents: Sequence[AdapterFacts], method: str, semantics: str = "exact") -> Iterator[Finding]:
    """Every reason why these IA3 parents cannot be merged."""
    if semantics != "exact":
        yield refusal(
            "merge-type", f"IA3 vectors are summed as PEFT sums them by themselves; {semantics} semantics are for LORA"
        )
    if method != METHOD:
        yield refusal("merge-type", f"IA3 vectors are only summed, which is {METHOD}; {method} merges LORA adapters")
    seen: dict[str, tuple[AdapterFacts, ModuleFacts]] = {}
    for facts in parents:
        for name in facts.unmatched:
            yield _about(facts, "merge-tensors", f"tensor {name} is no IA3 vector and belongs to nothing in the config")
        if not facts.modules:
            yield _about(facts, "merge-tensors", "holds no IA3 vectors")
        for module in facts.modules:
            if module.dtype not in READABLE:
                yield _about(facts, "merge-values", f"tensor {module.a_key} is {module.dtype}, no floating dtype")
            first, other = seen.setdefault(module.name, (facts, module))
            if other.a_shape != module.a_shape or scales_input(first, module) != scales_input(facts, module):
                found = " and ".join(_in_words(one, module) for one in ((first, other), (facts, module)))
                message = f"{module.name} has different vectors in the parents: {found}"
                yield refusal("merge-shapes", message, where=module.name)


def is_vector(module: ModuleFacts) -> bool:
    """Whether this is an IA3 vector."""
    return parse_key(module.a_key).leaf == LEAF


def scales_input(facts: AdapterFacts, module: ModuleFacts) -> bool:
    """PEFT's rule: feedforward_modules is an expression for the whole name, or a list of endings (no dot needed).

    Raises PatternError, and ConfigError where it is neither.
    """
    given = facts.config.raw.get("feedforward_modules")
    if not isinstance(given, str):
        return any(module.name.endswith(entry) for entry in _entries(facts, "feedforward_modules"))
    try:
        return compile_bounded(given).fullmatch(module.name, timeout=PATTERN_SECONDS) is not None
    except TimeoutError:
        raise PatternError(given, f"needs more than {PATTERN_SECONDS:g} s") from None


def _entries(facts: AdapterFacts, key: str) -> tuple[str, ...]:
    """A list of names in the config; raises ConfigError where it is anything else."""
    given = facts.config.raw.get(key)
    if given is not None and not (isinstance(given, list) and all(isinstance(one, str) for one in given)):
        raise ConfigError(facts.config.path, f"{key} must be a list of names or null, found {repr(given)[:80]}")
    return tuple(given or ())


def _in_words(one: tuple[AdapterFacts, ModuleFacts], module: ModuleFacts) -> str:
    facts, own = one
    side = "input" if scales_input(facts, module) else "output"
    return f"{list(own.a_shape)} over its {side}"


def _about(facts: AdapterFacts, rule: str, reason: str) -> Finding:
    return refusal(rule, f"{facts.path.name} {reason}", target=str(facts.path))
