"""Rules over the config's words against the base: the share of targets that have factors, fan-in against fan-out."""

from __future__ import annotations

from functools import lru_cache
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

    from engine.compat.layers import BaseIndex
    from engine.compat.rule import Subject
    from engine.format.configs.settings import LoraSettings

_MOST_MODULES = 100_000
_MOST_NAMES = 16_384  # thousands of adapters have the same few hundred modules


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
    try:
        selected = _selected(lora, index_of(base), prefix)
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


def _selected(lora: LoraSettings, index: BaseIndex, prefix: str) -> tuple[str, ...]:
    """The base's modules that the targets mean. Raises PatternError."""
    matcher = Matcher(lora)

    def find() -> tuple[str, ...]:
        names = index.linear_modules
        return tuple(path for path in names if matcher.targets(prefix + path if "." in path else path))

    asked = (lora.target_modules, lora.exclude_modules, lora.modules_to_save)
    return index.selections.get((prefix, *asked, lora.layers_to_transform, lora.layers_pattern), find)


def _prefix(subject: Subject) -> str | None:
    """What stands before the base's own paths in the adapter's module names, None where that differs between them."""
    found = {_before(module.name) for module in subject.facts.modules} - {None}
    return found.pop() if len(found) == 1 else None


@lru_cache(_MOST_NAMES)
def _before(module: str) -> str | None:
    """What stands before a module's path in the base, None where that cannot be told."""
    name = wrapped_path(module)
    plain = canonical(name)
    return name[: len(name) - len(plain)] if "." in plain and name.endswith(plain) else None


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
