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
    """The last adapter that fitted, the modules it was held against, and the layout that holds it beside what was in
    the one `before`: the next is often of the same shape.
    """

    facts: AdapterFacts
    modules: Mapping[str, nn.Module]
    parts: tuple[Part, ...]
    before: Layout | None
    layout: Layout


def joined_layout(
    parts: Sequence[Part], modules: Mapping[str, nn.Module], present: Layout | None, target_rank: int | None
) -> Layout:
    """The layout that holds these parts too: the present one where it does already."""
    old = present.wants if present else {}
    if present and all(is_held(part, old) for part in parts):
        return present
    wants = joined_wants([old, {part.path: part.want(target_rank) for part in parts}])
    on = {path: modules[holder(path, want.leaf)] for path, want in wants.items()}
    shapes = {path: KINDS[want.kind].shapes(on[path], want) for path, want in wants.items()}
    return make_layout(wants, shapes, {path: device_of(module) for path, module in on.items()})


def is_held(part: Part, wants: Mapping[str, Want]) -> bool:
    """Whether there is room for the part already."""
    want = wants.get(part.path)
    return want is not None and part.want(None).joined(want) == want
