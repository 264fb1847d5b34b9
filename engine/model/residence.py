"""The adapters of a model: all of them on the host, some of them in slots on its device, all in one layout."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from engine.errors import UnknownAdapterError
from engine.model.arena import Arena
from engine.model.image import build_image, relaid
from engine.model.kinds import KINDS
from engine.model.layout import Want, joined_wants, make_layout
from engine.model.merging import Addition
from engine.model.site import Site
from engine.model.slots import Slots

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import torch
    from torch import nn

    from engine.format.facts import AdapterFacts
    from engine.model.image import Image
    from engine.model.layout import Layout
    from engine.model.part import Part
    from engine.model.switch import Switch


@dataclass(frozen=True, slots=True)
class Loaded:
    """An adapter that was loaded: what was read of it, its parts, and its image on the host."""

    facts: AdapterFacts
    parts: tuple[Part, ...]
    image: Image


@dataclass(frozen=True, slots=True)
class Room:
    """What a runtime sets aside: slots on the device, the rank each has room for (None: as adapters need), dtype."""

    slots: int
    target_rank: int | None
    dtype: torch.dtype


class Residence:
    """Keeps the loaded adapters, their slots and the sites of one model in step."""

    def __init__(self, model: nn.Module, switch: Switch, room: Room) -> None:
        self.loaded: dict[str, Loaded] = {}
        self.sites: dict[str, Site] = {}
        self.slots = Slots(room.slots)
        self.modules: Mapping[str, nn.Module] = dict(model.named_modules())
        self._model = model
        self._switch = switch
        self._room = room
        self._arena: Arena | None = None

    def get(self, name: str) -> Loaded:
        """The adapter of exactly this name. Raises UnknownAdapterError."""
        if name not in self.loaded:
            raise UnknownAdapterError(name, tuple(self.loaded))
        return self.loaded[name]

    def take_in(self, name: str, facts: AdapterFacts, parts: tuple[Part, ...]) -> None:
        """Read the adapter's tensors and keep it under `name`; where it needs more room, everything moves to a larger
        layout first. Raises what `build_image` does, with nothing changed.
        """
        layout = self._layout_with(parts)
        image = build_image(facts, parts, layout, self._room.dtype)
        if self._arena is None or layout is not self._arena.layout:
            self._move(layout)
        self.loaded[name] = Loaded(facts, parts, image)

    def bring_in(self, name: str, keep: Collection[str] = ()) -> int:
        """The adapter's slot, filled where it was not, in place of one that is not to be kept.

        Raises UnknownAdapterError, SlotsFullError.
        """
        loaded = self.get(name)
        slot = self.slots.get(name)
        if slot is None:
            slot = self.slots.choose(keep)
            self._the_arena.put(slot, loaded.image)
            self.slots.assign(name, slot)
        return slot

    def addition(self, name: str, factor: float) -> Addition:
        """The adapter as something to merge into the weights. Raises UnknownAdapterError."""
        loaded = self.get(name)
        return Addition(name, {part.path: part for part in loaded.parts}, loaded.image, factor)

    def forget(self, name: str) -> None:
        """Drop the adapter; its slot is free again. Raises UnknownAdapterError."""
        self.get(name)
        self.slots.release(name)
        del self.loaded[name]

    def clear(self) -> None:
        """Take every site off the model and drop every adapter."""
        for site in self.sites.values():
            site.detach()
        self.sites.clear()
        self.loaded.clear()
        self.slots = Slots(self._room.slots)
        self._arena = None

    @property
    def _the_arena(self) -> Arena:
        if self._arena is None:
            raise AssertionError("an adapter is loaded, so there is an arena")
        return self._arena

    def _layout_with(self, parts: Sequence[Part]) -> Layout:
        """The layout that also holds these parts: the present one where it does already."""
        rank = self._room.target_rank
        new = {part.path: Want(part.kind, rank or part.rank, frozenset(part.tensors)) for part in parts}
        old = self._arena.layout.wants if self._arena else {}
        wants = joined_wants([old, new])
        if self._arena and wants == old:
            return self._arena.layout
        shapes = {path: KINDS[want.kind].shapes(self.modules[path], want) for path, want in wants.items()}
        return make_layout(wants, shapes)

    def _move(self, layout: Layout) -> None:
        """Move to another layout: the images on the host, the slots, and the sites' views."""
        device = next(self._model.parameters()).device
        arena = Arena(layout, slots=self._room.slots, dtype=self._room.dtype, device=device)
        self.loaded = {name: replace(old, image=relaid(old.image, layout)) for name, old in self.loaded.items()}
        for name, slot in self.slots.held():
            arena.put(slot, self.loaded[name].image)
        for path, want in layout.wants.items():
            if path not in self.sites:
                self.sites[path] = Site(path, self.modules[path], KINDS[want.kind], self._switch)
                self.sites[path].attach()
        for site in self.sites.values():
            arena.bind(site)
        self._arena = arena
