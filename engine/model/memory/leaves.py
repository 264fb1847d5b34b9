"""An adapter's numbers as parameters that take gradients: its slot's own memory, so that the next forward sees what an
optimiser did.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from engine.errors import InUseError
from engine.model.kinds import KINDS
from engine.model.kinds.sections import write

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from engine.model.fitting.part import Part
    from engine.model.memory.image import Image
    from engine.model.memory.staged import Loaded
    from engine.model.sites.site import Site


class Leaves:
    """Which adapters' numbers are parameters, each in a slot that it keeps meanwhile."""

    def __init__(self) -> None:
        self._slots: dict[str, int] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._slots

    def refuse(self, name: str | None = None) -> None:
        """Raise InUseError where this adapter's numbers, or any adapter's, are parameters."""
        found = name if name is not None else next(iter(self._slots), "")
        if found in self._slots:
            raise InUseError(found, "trained: its numbers are parameters; settle() it first")

    def open(self, name: str, loaded: Loaded, sites: Mapping[str, Site], slot: int) -> dict[str, nn.Parameter]:
        """A parameter for every tensor of the adapter, by its name on disk; forwards of its slot go through them.

        Each has the layout of the slot: padded with zeros to its rank, an embedding's A as (vocabulary, r).
        """
        self._slots[name] = slot
        found: dict[str, nn.Parameter] = {}
        for part in loaded.parts:
            site, stored = sites[part.path], _sections(part, sites[part.path])
            leaves = {section: nn.Parameter(site.stacks[section][slot]) for section in stored.values()}
            site.leaves[slot] = part, leaves
            site.plain = False
            for role, section in stored.items():
                found.setdefault(part.tensors[role], leaves[section])
        return found

    def close(self, name: str, loaded: Loaded, sites: Mapping[str, Site]) -> int:
        """Let the forwards take the slot's numbers again; gives the slot."""
        slot = self._slots.pop(name)
        for part in loaded.parts:
            site = sites[part.path]
            site.leaves.pop(slot, None)
            site.plain = not site.leaves and site.stacks.keys() == {"A", "B"}
        return slot

    @torch.no_grad()
    def derive_again(self, name: str, loaded: Loaded, sites: Mapping[str, Site]) -> None:
        """Compute anew what the slot holds beside the parameters themselves, after they changed."""
        for part, views in self._views(name, loaded, sites):
            write(views, KINDS[part.kind].derived(part, views))

    @torch.no_grad()
    def read_back(self, name: str, loaded: Loaded, sites: Mapping[str, Site], image: Image) -> Image:
        """Fill an image of zeros of the present layout with the slot's numbers."""
        self.derive_again(name, loaded, sites)
        for part, views in self._views(name, loaded, sites):
            write(image.views(part.path), views)
        return image

    def _views(self, name: str, loaded: Loaded, sites: Mapping[str, Site]) -> Iterator[tuple[Part, dict[str, Tensor]]]:
        slot = self._slots[name]
        for part in loaded.parts:
            yield part, {section: stack[slot] for section, stack in sites[part.path].stacks.items()}


def _sections(part: Part, site: Site) -> dict[str, str]:
    """The section that holds what is stored, by role."""
    A = "stored_A" if "E" in part.tensors else "table" if "table" in site.stacks else "A"
    return {role: A if role == "A" else role for role in part.tensors}
