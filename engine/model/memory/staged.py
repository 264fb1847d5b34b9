"""An adapter on its way in or out: frozen values that hold all that the step needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.format.facts import AdapterFacts
    from engine.model.fitting.fitted import Wants
    from engine.model.fitting.part import Part
    from engine.model.memory.image import Image
    from engine.model.memory.layout import Layout
    from engine.model.memory.source import Source
    from engine.model.sites.replication import Replication


@dataclass(frozen=True, slots=True)
class Loaded:
    """An adapter that was loaded: where it came from, its parts on the model, `version` the number of its load, which
    no other has, `factor` by which its scales are multiplied, and whether it is pinned.
    """

    source: Source
    parts: tuple[Part, ...]
    version: int
    factor: float = 1.0
    pinned: bool = False

    @property
    def facts(self) -> AdapterFacts:
        """What its files say."""
        return self.source.facts

    def scales(self, layout: Layout) -> list[float]:
        """Its scales times its factor, one per module of the layout; 0 where it has no part."""
        scales = [0.0] * len(layout.columns)
        for part in self.parts:
            scales[layout.columns[part.path]] = part.scaling * self.factor
        return scales

    def ranks(self, layout: Layout) -> list[int]:
        """Its ranks, one per module of the layout; 0 where it has no part."""
        ranks = [0] * len(layout.columns)
        for part in self.parts:
            ranks[layout.columns[part.path]] = part.rank
        return ranks


@dataclass(frozen=True, slots=True)
class Staged:
    """An adapter that was read and held against the model, all its numbers looked at; nothing of it is on the model.

    `wants` is the room for it, `replication` the repeated layers that it was held against where it asks for them.
    """

    source: Source
    parts: tuple[Part, ...]
    image: Image
    wants: Wants
    replication: Replication | None = None


@dataclass(frozen=True, slots=True)
class Swapped:
    """A swap that was made: `before` and its image are what `undo` brings back, `version` the load that replaced it."""

    name: str
    version: int
    before: Loaded
    image: Image
