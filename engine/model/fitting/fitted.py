"""An adapter that fits a model, and the layout that holds it beside what other adapters need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.model.kinds import KINDS
from engine.model.memory.layout import joined_wants, make_layout
from engine.model.memory.places import device_of
from engine.model.sites.siting import holder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn

    from engine.format.facts import AdapterFacts
    from engine.model.fitting.part import Part
    from engine.model.memory.layout import Layout, Want


@dataclass(frozen=True, slots=True)
class Fitted:
    """The last adapter that fitted, the modules it was held against, what was wanted for it, and the layout that holds
    it beside what was in the one `before`: the next is often of the same shape. `swap_class` names that of its image.
    """

    facts: AdapterFacts
    modules: Mapping[str, nn.Module]
    parts: tuple[Part, ...]
    wants: Wants
    before: Layout | None
    layout: Layout
    swap_class: str | None = None


@dataclass(frozen=True, slots=True)
class Wants:
    """What an adapter's `own` parts take, and what there shall be room for (`asked`) where a layout grows for it.

    `whole`: a layout without room for all that is asked shall grow, not only one that does not hold the own parts.
    """

    own: Mapping[str, Want]
    asked: Mapping[str, Want]
    whole: bool = False

    @classmethod
    def of(cls, parts: Sequence[Part], target_rank: int | None) -> Wants:
        """An adapter's: all its ranks, or the target rank, where a layout grows."""
        own = {part.path: part.want(None) for part in parts}
        return cls(own, {part.path: part.want(target_rank) for part in parts})


def joined_layout(wants: Wants, modules: Mapping[str, nn.Module], present: Layout | None) -> Layout:
    """The layout that holds what is wanted too: the present one where it does already."""
    if present and not unheld(wants.asked if wants.whole else wants.own, present):
        return present
    return room_for(joined_wants([present.wants if present else {}, wants.asked]), modules)


def unheld(wants: Mapping[str, Want], present: Layout | None) -> list[str]:
    """The paths for which the layout has no room."""
    old = present.wants if present else {}
    return [path for path, want in wants.items() if path not in old or want.joined(old[path]) != old[path]]


def room_for(wants: Mapping[str, Want], modules: Mapping[str, nn.Module]) -> Layout:
    """The layout of these wants on the modules, each where its module computes."""
    on = {path: modules[holder(path, want.leaf)] for path, want in wants.items()}
    shapes = {path: KINDS[want.kind].shapes(on[path], want) for path, want in wants.items()}
    return make_layout(wants, shapes, {path: device_of(module) for path, module in on.items()})
