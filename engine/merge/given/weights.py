"""A parent's weight in every module: one number, or one that depends on the module."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase

_INDEX = re.compile(r"(?:^|\.)(\d+)(?=\.|$)", re.ASCII)


@dataclass(frozen=True, slots=True)
class WeightRule:
    """`weight` for modules whose full name fits the glob `modules` and which lie in layers `layers` (both ends
    included); None fits every module. A module's layer is the first number among the parts of its name.
    """

    weight: float
    modules: str | None = None
    layers: tuple[int, int] | None = None

    @property
    def told(self) -> str:
        """What the rule asks of a module, in words."""
        modules = self.modules or "all modules"
        return modules if self.layers is None else "{} in layers {} to {}".format(modules, *self.layers)

    def fits(self, module: str) -> bool:
        """Whether the rule speaks of this module."""
        if self.modules is not None and not fnmatchcase(module, self.modules):
            return False
        if self.layers is None:
            return True
        index = _INDEX.search(module)
        return index is not None and self.layers[0] <= int(index[1]) <= self.layers[1]


@dataclass(frozen=True, slots=True)
class Weight:
    """The weight of the first of `rules` that fits a module, else `default`."""

    default: float
    rules: tuple[WeightRule, ...] = ()

    def of(self, module: str) -> float:
        """The weight in the module of that full name."""
        return next((rule.weight for rule in self.rules if rule.fits(module)), self.default)

    @property
    def is_finite(self) -> bool:
        """Whether every weight it can give is a finite number."""
        return all(map(math.isfinite, (self.default, *(rule.weight for rule in self.rules))))
