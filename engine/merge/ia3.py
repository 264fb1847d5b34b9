"""IA3 parents: a vector per module that scales its output, or in feed-forward modules its input.

Merged as peft does: l = Σ w_i·l_i over the parents that have the module, whatever the others' weights. So weights that
do not add up to 1 scale what the base computes, and a module that few parents have is scaled by theirs alone.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from engine.errors import ConfigError, PatternError
from engine.format.facts import ModuleFacts
from engine.format.keys import PREFIX, parse_key
from engine.format.patterns import compile_bounded
from engine.merge.dtypes import READABLE
from engine.merge.refusals import refusal
from engine.merge.result_config import ROOT_DEPTH

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from engine.compat.finding import Finding
    from engine.format.config import AdapterConfig
    from engine.format.facts import AdapterFacts
    from engine.merge.others import Extras

TYPE = "IA3"
LEAF = "ia3_l"
METHOD = "linear"

SHARED = ("auto_mapping", "revision", "task_type")
"""Keys that survive when all parents that have them agree."""

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
            if other.a_shape != module.a_shape or _scales_input(first, module) != _scales_input(facts, module):
                found = " and ".join(_in_words(one, module) for one in ((first, other), (facts, module)))
                message = f"{module.name} has different vectors in the parents: {found}"
                yield refusal("merge-shapes", message, where=module.name)


def ia3_config(parents: Sequence[AdapterFacts], extras: Extras) -> dict[str, Any]:
    """The config with which PEFT gives the result's vectors to its modules and to no others."""
    configs = [facts.config for facts in parents]
    names = {module.name for facts in parents for module in facts.modules}
    inputs = {module.name for facts in parents for module in facts.modules if _scales_input(facts, module)}
    config = {
        "peft_type": TYPE,
        "base_model_name_or_path": next((name for one in configs if (name := one.base_model_name_or_path)), None),
        "target_modules": _exactly(names, names, unsure=any(name.count(".") < ROOT_DEPTH for name in names)),
        "feedforward_modules": _exactly(inputs, names, unsure=False),
        "modules_to_save": list(extras.saved) or None,
        "fan_in_fan_out": any(bool(one.raw.get("fan_in_fan_out")) for one in configs),
        "inference_mode": True,
        "init_ia3_weights": True,
        **{key: _agreed(configs, key) for key in SHARED},
    }
    return dict(sorted(config.items()))


def _exactly(names: set[str], targeted: set[str], *, unsure: bool) -> str | list[str]:
    """A list, or where that would also match other modules (`unsure`, or seen here) an expression for these alone."""
    others = targeted - names
    if unsure or any(other.endswith(name) for other in others for name in names):
        return "|".join(re.escape(name) for name in sorted(names))
    return sorted(names)


def is_vector(module: ModuleFacts) -> bool:
    """Whether this is an IA3 vector."""
    return parse_key(module.a_key).leaf == LEAF


def vector_key(module: str) -> str:
    """PEFT's name of the module's vector."""
    return f"{PREFIX}{module}.{LEAF}"


def _scales_input(facts: AdapterFacts, module: ModuleFacts) -> bool:
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
    side = "input" if _scales_input(facts, module) else "output"
    return f"{list(own.a_shape)} over its {side}"


def _agreed(configs: Iterable[AdapterConfig], key: str) -> Any:
    given = [value for one in configs if (value := one.raw.get(key)) is not None]
    return given[0] if given and all(value == given[0] for value in given) else None


def _about(facts: AdapterFacts, rule: str, reason: str) -> Finding:
    return refusal(rule, f"{facts.path.name} {reason}", target=str(facts.path))
