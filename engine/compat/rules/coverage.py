"""Rules over the config's words against the base: the share of targets that have factors, fan-in against fan-out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.compat.layers import base_name, implied_weight, index_of, is_transposed_type
from engine.compat.rule import Hit, listed
from engine.errors import PatternError
from engine.format.configs.patterns import Matcher
from engine.format.configs.settings import ALL_LINEAR
from engine.format.names.canonical import canonical
from engine.format.names.keys import wrapped_path
from engine.format.names.renamed import RENAMED_TYPES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.compat.rule import Subject

_MOST_MODULES = 100_000


def fraction(subject: Subject) -> Iterator[Hit]:
    """Modules that the config selects in the base and that have no factors: PEFT gives them an untrained adapter."""
    if not _comparable(subject):
        return
    prefix = _prefix(subject)
    lora, base = subject.facts.config.lora, subject.base
    if prefix is None or lora is None or base is None:
        return
    adapted = (*(one.name for one in subject.facts.modules), *subject.facts.incomplete)
    present = {canonical(wrapped_path(name)) for name in adapted}
    matcher = Matcher(lora)
    try:
        selected = [
            path for path in index_of(base).linear_modules if matcher.targets(prefix + path if "." in path else path)
        ]
    except PatternError:
        return
    if missing := [path for path in selected if canonical(path) not in present]:
        share = 100 * (len(selected) - len(missing)) / len(selected)
        yield Hit(
            f"{len(missing)} of {len(selected)} modules that target_modules selects in the base have no factors "
            f"({share:.0f} % have): {listed(missing)}",
            missing[0],
        )


def _comparable(subject: Subject) -> bool:
    lora, base = subject.facts.config.lora, subject.base
    if lora is None or base is None or not subject.facts.modules or not lora.target_modules:
        return False
    if lora.layer_replication or (isinstance(lora.target_modules, str) and lora.target_modules.lower() == ALL_LINEAR):
        return False
    return base.model_type not in RENAMED_TYPES and len(base.parameters) <= _MOST_MODULES


def _prefix(subject: Subject) -> str | None:
    """What stands before the base's own paths in the adapter's module names, None where that differs between them."""
    found = set()
    for name in (wrapped_path(module.name) for module in subject.facts.modules):
        plain = canonical(name)
        if "." in plain and name.endswith(plain):
            found.add(name[: len(name) - len(plain)])
    return found.pop() if len(found) == 1 else None


def orientation(subject: Subject) -> Iterator[Hit]:
    """fan_in_fan_out says how the base stores its linear weights: PEFT corrects a wrong one, others believe it."""
    lora, base = subject.facts.config.lora, subject.base
    if lora is None or base is None or base.model_type is None or base.quantization is not None:
        return
    index = index_of(base)
    stated = lora.fan_in_fan_out
    against = []
    for module in subject.facts.modules:
        weight, implied = index.weight(base_name(module.name, subject.raw)), implied_weight(module)
        if module.kind != "linear" or weight is None or implied is None:
            continue
        straight, turned = implied == weight, implied[::-1] == weight
        if straight and turned:
            turned, straight = is_transposed_type(base), not is_transposed_type(base)
        if (turned if stated else straight) or not (turned or straight):
            return
        against.append(module.name)
    if against:
        wanted = "true, for weights stored (in, out)" if not stated else "false, for weights stored (out, in)"
        yield Hit(
            f"fan_in_fan_out: expected {wanted}, found {str(stated).lower()}; as in {against[0]}", "fan_in_fan_out"
        )
