"""Memory of the adapters on the model's devices: one row per slot on each, slot 0 all zeros for the base."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from engine.kernels.lora import Factors
from engine.model.memory.room import allocating
from engine.model.memory.streams import Stream
from engine.model.memory.tensordata import wide

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from torch import Tensor

    from engine.model.memory.layout import Layout, Span
    from engine.model.sites.site import Site


class Bank:
    """One device's share: `images` (slots + 1, numbers of the span), `scales` (slots + 1, modules of it) and `factors`
    (slots + 1,), how much of the slot's adapter there shall be; both float32, or float64 as the images are.
    """

    def __init__(self, span: Span, first: int, *, slots: int, dtype: torch.dtype) -> None:
        self.span = span
        self.first = first
        width, device = span.stop - span.start, span.device
        with allocating(f"{slots} slots on {device}", (slots + 1) * width * dtype.itemsize):
            self.images = torch.zeros(slots + 1, width, dtype=dtype, device=device)
            self.scales = torch.zeros(slots + 1, len(span.paths), dtype=wide(dtype), device=device)
            self.factors = torch.ones(slots + 1, dtype=wide(dtype), device=device)
        self.stream = Stream(device)


class Arena:
    """The slots of a layout. A module's factors are strided views of its bank's `images`: what `put` copies is seen by
    the next forward, at the same address.
    """

    def __init__(self, layout: Layout, *, slots: int, dtype: torch.dtype) -> None:
        self.layout = layout
        self.banks: list[Bank] = []
        first = 0
        for span in layout.spans:
            self.banks.append(Bank(span, first, slots=slots, dtype=dtype))
            first += len(span.paths)
        self._bank_of = {path: bank for bank in self.banks for path in bank.span.paths}
        self._numbers = [[0.0] * (slots + 1) for _ in layout.wants]
        self._ranks = [[0] * (slots + 1) for _ in layout.wants]
        self._factor_numbers = [1.0] * (slots + 1)

    @property
    def nbytes(self) -> int:
        """Bytes of all slots on all devices."""
        return sum(bank.images.nbytes for bank in self.banks)

    def stacks(self, path: str) -> dict[str, Tensor]:
        """The module's sections in all slots, by name: views (slots + 1, *shape)."""
        bank = self._bank_of[path]
        sections = self.layout.sections[path]
        return {name: section.stacked(bank.images, bank.span.start) for name, section in sections.items()}

    def bind(self, site: Site) -> None:
        """Give the site its views."""
        bank = self._bank_of[site.path]
        site.column = self.layout.columns[site.path]
        site.stacks = self.stacks(site.path)
        site.dtype = bank.images.dtype
        site.numbers, site.scales = self._numbers[site.column], bank.scales[:, site.column - bank.first]
        site.factor_numbers, site.factors_of = self._factor_numbers, bank.factors
        site.plain = site.stacks.keys() == {"A", "B"}
        if "A" in site.stacks:
            ranks = self._ranks[site.column]
            site.factors = Factors(site.stacks["A"], site.stacks["B"], site.scales, site.numbers, ranks)

    def put(
        self, slot: int, values: Tensor, scales: Sequence[float], factor: float = 1.0, *, ranks: Sequence[int]
    ) -> None:
        """Fill a slot that nobody runs on: per device one copy of its share of an image (total,), one of its scales.

        `ranks` are the adapter's own, one per site: above them its factors are zeros.
        """
        for bank in self.banks:
            with bank.stream.writing(slot):
                share = values[bank.span.start : bank.span.stop]
                bank.images[slot].copy_(share, non_blocking=True)
        for column, rank in zip(self._ranks, ranks, strict=True):
            column[slot] = rank
        self.write_scales(slot, scales, factor)

    def write_scales(self, slot: int, scales: Sequence[float], factor: float = 1.0) -> None:
        """Set the scale of every site for this slot; they hold `factor`, how much of the adapter there shall be."""
        for bank in self.banks:
            with bank.stream.writing(slot):
                share = scales[bank.first : bank.first + len(bank.span.paths)]
                bank.scales[slot].copy_(torch.tensor(share, dtype=bank.scales.dtype))
                bank.factors[slot] = factor
        self._factor_numbers[slot] = factor
        for numbers, scale in zip(self._numbers, scales, strict=True):
            numbers[slot] = scale

    def take_from(self, other: Arena) -> None:
        """Copy every slot of an arena whose layout this one's holds, device by device."""
        for path, column in other.layout.columns.items():
            mine, theirs = self.stacks(path), other.stacks(path)
            for name, stack in theirs.items():
                mine[name][tuple(slice(0, size) for size in stack.shape)].copy_(stack)
            bank, old = self._bank_of[path], other._bank_of[path]
            at = self.layout.columns[path]
            bank.scales[:, at - bank.first].copy_(old.scales[:, column - old.first])
            self._numbers[at][:] = other._numbers[column]
            self._ranks[at][:] = other._ranks[column]
            bank.factors.copy_(old.factors)
        self._factor_numbers[:] = other._factor_numbers

    def begin(self, slots: Collection[int]) -> None:
        """Let what comes next in this thread see what was written into these slots."""
        for bank in self.banks:
            bank.stream.begin(slots)

    def end(self, slots: Collection[int]) -> None:
        """Let later writes into these slots wait for what was started in this thread."""
        for bank in self.banks:
            bank.stream.end(slots)
