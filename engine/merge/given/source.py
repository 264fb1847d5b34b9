"""One parent of a merge: a frozen value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.merge.given.weights import Weight

if TYPE_CHECKING:
    from pathlib import Path

    from engine.merge.given.weights import WeightRule


@dataclass(frozen=True, slots=True)
class Source:
    """A parent: the adapter folder at `path`, taken `weight` times, or in the modules that `rules` fit as they say.

    `digest` is that of its tensors (format/files/digest.py), where it is known; None is found when a method needs it.
    """

    path: Path
    weight: float
    rules: tuple[WeightRule, ...] = ()
    digest: str | None = None

    @property
    def weighting(self) -> Weight:
        """The weight in every module."""
        return Weight(self.weight, self.rules)
