"""Room for one more adapter: a layout that holds it too, and the move of slots and sites to that layout.

Everything that can fail is done before the first change: the new slots are filled from the old ones, then the sites
look at them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.errors import SealedError
from engine.model.fitting.fitted import joined_layout, unheld
from engine.model.memory.arena import Arena

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn

    from engine.model.fitting.fitted import Fitted, Wants
    from engine.model.memory.layout import Layout, Want
    from engine.model.memory.room import Room
    from engine.model.sites.site import Site


def sealed_layout(wants: Wants, present: Layout | None) -> Layout:
    """The present layout, which must hold what is wanted as it is. Raises SealedError with what it lacks."""
    missing = unheld(wants.own, present)
    if present is None or missing:
        told = f"no room for {len(missing)} modules or ranks of the adapter ({missing[0]}, …)"
        raise SealedError(told, missing)
    return present


def wider_layout(
    wants: Wants, modules: Mapping[str, nn.Module], present: Layout | None, alike: Fitted | None
) -> Layout:
    """A layout that also holds what is wanted: the present one where it does already, else that of the adapter staged
    last, where it wanted the same beside the same.
    """
    known = alike and alike.wants is wants and alike.modules is modules
    if alike and known and (present is alike.before or present is alike.layout):
        return alike.layout
    return joined_layout(wants, modules, present)


def filled_arena(layout: Layout, before: Arena | None, room: Room) -> Arena:
    """Slots in that layout, holding what the former ones hold. Raises OutOfRoomError."""
    arena = Arena(layout, slots=room.slots, dtype=room.dtype)
    if before is not None:
        arena.take_from(before)
    return arena


def bind_sites(arena: Arena, sites: dict[str, Site], make: Callable[[str, Want], Site]) -> None:
    """Let every site look at the new slots; `make` and attach those of modules that had none."""
    for path, want in arena.layout.wants.items():
        if path not in sites:
            sites[path] = make(path, want)
            arena.bind(sites[path])
            sites[path].attach()
    for site in sites.values():
        arena.bind(site)
