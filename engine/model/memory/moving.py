"""A model that was moved to another device after adapters were loaded: told by name, or followed; or whose modules are
others by now: told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.errors import RuntimeStateError
from engine.model.kinds import KINDS
from engine.model.memory.arena import Arena
from engine.model.memory.layout import make_layout
from engine.model.memory.places import device_of
from engine.model.sites.siting import holder

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import nn

    from engine.model.fitting.part import Part
    from engine.model.memory.residence import Residence
    from engine.model.sites.site import Site


def refuse_moved(arena: Arena | None, sites: Mapping[str, Site]) -> None:
    """Raises RuntimeStateError where the first module of a device's share computes on another one now."""
    for span in arena.layout.spans if arena else ():
        site = sites.get(span.paths[0])
        found = device_of(site.module) if site else span.device
        if found != span.device:
            told = f"{span.paths[0]}: its adapters lie on {span.device}, the module was moved to {found}"
            raise RuntimeStateError(f"{told}; call runtime.follow()")


def refuse_replaced(model: nn.Module, parts: Iterable[Part]) -> None:
    """Raises RuntimeStateError where the model has another module by now in the place of a part's, as it has after
    `resize_token_embeddings`: what is put on the former one would act on nothing.
    """
    found: dict[str, object] = {"": model}
    for part in parts:
        if _found_at(holder(part.path, part.leaf), found) is not part.module:
            told = f"{part.path}: the model has another module there than when the runtime was made"
            raise RuntimeStateError(f"{told}; detach() and make another runtime")


def _found_at(path: str, found: dict[str, object]) -> object:
    """What stands at the path, with everything on the way to it kept in `found`."""
    if path not in found:
        parent, _, name = path.rpartition(".")
        found[path] = getattr(_found_at(parent, found), "_modules", {}).get(name)  # a module's own lookup is slow
    return found[path]


def follow(residence: Residence) -> None:
    """Let every slot lie on the device where its module computes now. Raises InUseError, OutOfRoomError."""
    arena, sites = residence.arena, residence.sites
    if arena is None:
        return
    residence.leaves.refuse()
    wants = arena.layout.wants
    shapes = {path: KINDS[want.kind].shapes(sites[path].module, want) for path, want in wants.items()}
    layout = make_layout(wants, shapes, {path: device_of(sites[path].module) for path in wants})
    there = Arena(layout, slots=residence.slots.count, dtype=arena.banks[0].images.dtype)
    there.take_from(arena)
    for site in sites.values():
        there.bind(site)
    residence.arena = there
