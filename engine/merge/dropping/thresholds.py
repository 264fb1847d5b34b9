"""The exact magnitude at which a share of elements is kept, of matrices too large to sort or to hold.

Magnitudes of float32 are ordered as their bit patterns are. A sample brackets the pattern sought; a pass over all
elements counts those above the bracket and those of each pattern inside it, so that counts of several matrices add up
to those of all together. Where the sample erred, another pass looks where it must be: the result is exact whatever the
sample was, and memory is that of the counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from engine.merge.matrices.rows import BLOCK, row_blocks

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from engine.merge.matrices.parts import Part

LARGEST = 0x7F800000
"""The pattern of infinity."""

MAGNITUDE = 0x7FFFFFFF
BINS = 1 << 20
SAMPLE = 1 << 15
WHOLE = BLOCK
"""Elements that are sorted at once, which takes less than counting. One block, so that the values are the same ones."""

SPREAD = 5.0
"""Standard deviations of a sampled quantile on either side of it."""


@dataclass(frozen=True, slots=True)
class Bracket:
    """Patterns `low` to `high`, counted in bins of 2**`shift` patterns."""

    low: int
    high: int

    @property
    def shift(self) -> int:
        """Patterns of a bin, as a power of two: as few as `BINS` allows."""
        return max(0, (self.high - self.low).bit_length() - BINS.bit_length() + 1)

    @property
    def bins(self) -> int:
        """How many bins there are."""
        return ((self.high - self.low) >> self.shift) + 1


@dataclass(slots=True)
class Counts:
    """Elements above a bracket, and in each of its bins (int64)."""

    above: int
    inside: Tensor

    def add(self, other: Counts) -> None:
        """Adds those of other elements."""
        self.above += other.above
        self.inside += other.inside


def count(size: int, density: float) -> int:
    """How many of `size` elements the share `density` is: rounded down as peft and mergekit do, at least one."""
    return max(1, int(density * size))


def sample(part: Part, *, size: int = SAMPLE) -> Tensor:
    """The patterns of `size` elements of D at places spread evenly at random; int32."""
    generator = torch.Generator().manual_seed(math.prod(part.shape))
    rows, columns = (torch.randint(side, (size,), generator=generator) for side in part.shape)
    device = part.A.device
    return _patterns(part.elements(rows.to(device), columns.to(device)))


def bracket(patterns: Tensor, weights: Tensor | None, density: float) -> Bracket:
    """Where the threshold is to be expected from a sample, whose elements stand for `weights` elements each."""
    ordered, order = patterns.sort(descending=True)
    share = torch.ones_like(ordered, dtype=torch.float64) if weights is None else weights[order]
    places = share.cumsum(0) / share.sum()
    doubt = SPREAD * math.sqrt(density * (1 - density) * float(share.square().sum())) / float(share.sum())
    first, last = (int(torch.searchsorted(places, density + off)) for off in (-doubt, doubt))
    high = LARGEST if density <= doubt else int(ordered[min(first, len(ordered) - 1)])
    low = 0 if last >= len(ordered) else int(ordered[last])
    return Bracket(low, max(low, high))


def counted(part: Part, within: Bracket) -> Counts:
    """One pass over D."""
    counts = Counts(0, torch.zeros(within.bins, dtype=torch.int64))
    lean, waiting, held = part.single(), [], 0
    for start, stop in row_blocks(part.shape):
        patterns = _patterns(lean.block(start, stop)).flatten()
        counts.above += int(torch.count_nonzero(patterns > within.high))
        waiting.append(_inside(patterns, within))
        # Few at a time, because a count takes as long as there are bins.
        held += len(waiting[-1])
        if held > BINS or stop == part.shape[0]:
            places = (torch.cat(waiting) - within.low) >> within.shift
            counts.inside += torch.bincount(places, minlength=within.bins).cpu()
            waiting, held = [], 0
    return counts


def _inside(patterns: Tensor, within: Bracket) -> Tensor:
    if patterns.device.type == "cpu":
        # numpy takes the few that fit several times as fast.
        values = patterns.numpy()
        return torch.from_numpy(values[(values >= within.low) & (values <= within.high)])
    return patterns[(patterns >= within.low) & (patterns <= within.high)]


def narrowed(within: Bracket, counts: Counts, kept: int) -> Bracket:
    """Where the pattern of the `kept`-th largest element is, given one pass; a single pattern where it is found."""
    if kept <= counts.above:
        return Bracket(within.high + 1, LARGEST)
    running = counts.inside.flip(0).cumsum(0) + counts.above
    place = int(torch.searchsorted(running, kept))
    if place == within.bins:
        return Bracket(0, within.low - 1)
    low = within.low + ((within.bins - 1 - place) << within.shift)
    return Bracket(low, min(low + (1 << within.shift) - 1, within.high))


def search(start: Bracket, kept: int, passed: Callable[[Bracket], Counts]) -> float:
    """The magnitude of the `kept`-th largest of all elements that `passed` counts."""
    within = start
    while within.low < within.high or within is start:
        within = narrowed(within, passed(within), kept)
    return float(torch.tensor(within.low, dtype=torch.int32).view(torch.float32))


def threshold(part: Part, density: float) -> float:
    """The magnitude at which the share `density` of the elements of one D is kept."""
    kept = count(math.prod(part.shape), density)
    if math.prod(part.shape) <= WHOLE:
        magnitudes = part.single().block(0, part.shape[0]).abs().flatten()
        return float(magnitudes.kthvalue(len(magnitudes) - kept + 1).values)
    return search(bracket(sample(part), None, density), kept, lambda within: counted(part, within))


def _patterns(values: Tensor) -> Tensor:
    return values.contiguous().view(torch.int32) & MAGNITUDE
