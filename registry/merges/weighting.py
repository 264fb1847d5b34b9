"""A parent's weight in a merge: a number, or one that depends on the module, as recipes write it."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from typing import Any

from registry.errors import UsageError

_LAYERS = re.compile(r"(\d{1,5})(?:\.\.(\d{1,5}))?", re.ASCII)
_LONGEST_PATTERN = 512
_KEYS = {"default", "rules"}
_RULE_KEYS = {"modules", "layers", "weight"}


@dataclass(frozen=True, slots=True)
class WeightRule:
    """`weight` for the modules whose name fits the glob `modules`, or which lie in layers `layers`, both ends included;
    where both are given, for those that fit both.
    """

    weight: float
    modules: str | None = None
    layers: tuple[int, int] | None = None

    def as_json(self) -> dict[str, Any]:
        """The rule as a recipe writes it."""
        layers = None if self.layers is None else "{}..{}".format(*self.layers)
        said = {"modules": self.modules, "layers": layers, "weight": self.weight}
        return {key: value for key, value in said.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Weighting:
    """The weight of the first rule that a module fits, else `default`."""

    default: float
    rules: tuple[WeightRule, ...] = ()

    def as_json(self) -> float | dict[str, Any]:
        """A number where there are no rules."""
        if not self.rules:
            return self.default
        return {"default": self.default, "rules": [rule.as_json() for rule in self.rules]}


def parse_weighting(value: Any, *, where: str) -> Weighting:
    """A number, or `{default: W, rules: [{layers: A..B, modules: GLOB, weight: W}, …]}`.

    UsageError names the place `where` and what was expected.
    """
    if isinstance(value, (Weighting, int, float)):
        return value if isinstance(value, Weighting) else Weighting(_number(value, where))
    if not isinstance(value, dict) or not value.keys() <= _KEYS or "default" not in value:
        raise UsageError(f"{where}: expected a number, or default and rules, found {value!r}")
    rules = value.get("rules") or []
    if not isinstance(rules, list):
        raise UsageError(f"{where}: rules: expected a list, found {rules!r}")
    parsed = tuple(_rule(rule, f"{where}: rule {place}") for place, rule in enumerate(rules, 1))
    return Weighting(_number(value["default"], f"{where}: default"), parsed)


def _rule(value: Any, where: str) -> WeightRule:
    if not isinstance(value, dict) or not value.keys() <= _RULE_KEYS or "weight" not in value or len(value) < 2:
        raise UsageError(f"{where}: expected weight with modules, layers or both, found {value!r}")
    modules = value.get("modules")
    if modules is not None and not (isinstance(modules, str) and 0 < len(modules) <= _LONGEST_PATTERN):
        raise UsageError(f"{where}: modules: expected a pattern such as *.mlp.*, found {modules!r}")
    layers = None if value.get("layers") is None else _layers(value["layers"], where)
    return WeightRule(_number(value["weight"], f"{where}: weight"), modules, layers)


def _layers(value: Any, where: str) -> tuple[int, int]:
    found = _LAYERS.fullmatch(str(value))
    if found is None or isinstance(value, bool):
        raise UsageError(f"{where}: layers: expected A..B or a number, found {value!r}")
    first = int(found[1])
    last = first if found[2] is None else int(found[2])
    if last < first:
        raise UsageError(f"{where}: layers {value}: ends before it starts")
    return first, last


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= sys.float_info.max:
        raise UsageError(f"{where}: expected a finite number, found {repr(value)[:80]}")
    return float(value)
