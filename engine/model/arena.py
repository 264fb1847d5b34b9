"""Memory of the adapters on a device: one row of equal layout per slot, slot 0 all zeros for the base."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from engine.kernels.lora import Factors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.model.image import Image
    from engine.model.layout import Layout
    from engine.model.site import Site


class Arena:
    """`images` (slots + 1, total) and `scales` (slots + 1, sites), float32, on one device.

    A module's factors are strided views of `images`: what `put` copies is seen by the next forward, at the same
    address.
    """

    def __init__(self, layout: Layout, *, slots: int, dtype: torch.dtype, device: torch.device) -> None:
        self.layout = layout
        self.images = torch.zeros(slots + 1, layout.total, dtype=dtype, device=device)
        self.scales = torch.zeros(slots + 1, len(layout.wants), device=device)
        self._numbers = [[0.0] * (slots + 1) for _ in layout.wants]

    def bind(self, site: Site) -> None:
        """Give the site its views."""
        site.column = self.layout.columns[site.path]
        site.stacks = {name: part.stacked(self.images) for name, part in self.layout.sections[site.path].items()}
        if "A" in site.stacks:
            numbers, scales = self._numbers[site.column], self.scales[:, site.column]
            site.factors = Factors(site.stacks["A"], site.stacks["B"], scales, numbers)

    def put(self, slot: int, image: Image) -> None:
        """Fill a slot: one copy of the image, one of its scales."""
        self.images[slot].copy_(image.values)
        self.write_scales(slot, image.scales)

    def write_scales(self, slot: int, scales: Sequence[float]) -> None:
        """Set the scale of every site for this slot."""
        self.scales[slot].copy_(torch.tensor(scales))
        for column, scale in enumerate(scales):
            self._numbers[column][slot] = scale
