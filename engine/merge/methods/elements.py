"""What the methods on single elements share: the parents that count, what is kept of them, and the best factors."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from engine.merge.dropping.masks import mask, mask_key, mask_keys
from engine.merge.dropping.thresholds import threshold
from engine.merge.matrices.rows import filled
from engine.merge.matrices.sketch import sketch
from engine.merge.methods.signs import trimmed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from engine.merge.matrices.parts import Part, Parts
    from engine.merge.matrices.target import Target
    from engine.merge.table import Site

    Prune = Callable[[Sequence[Tensor], int], list[Tensor]]


def live(parts: Parts, site: Site) -> tuple[list[Part], Site]:
    """The parents whose weight is not zero, and the site as if there were no others.

    Raises FloatingPointError where any parent holds a NaN or an infinity.
    """
    # A mask or a threshold would hide a NaN; cores do not.
    _ = parts.joint
    places = [place for place, weight in enumerate(site.weights) if weight]
    return [parts.items[place] for place in places], replace(
        site,
        weights=[site.weights[place] for place in places],
        keys=[site.keys[place] for place in places] if site.keys else (),
        thresholds=[site.thresholds[place] for place in places] if site.thresholds else (),
    )


def trim(items: Sequence[Part], site: Site) -> Prune:
    """Keeps the largest `density` of each D_i: of this module, or of all modules where the site has thresholds."""
    density, factor = _density(site), _factor(site)
    if density == 1:
        return lambda blocks, _: list(blocks)
    least = site.thresholds or [threshold(part, density) for part in items]
    return lambda blocks, _: [trimmed(block, one, factor=factor) for block, one in zip(blocks, least, strict=True)]


def drop(site: Site) -> Prune:
    """Keeps each element of D_i with probability `density`, as the draws of its counter say."""
    density, factor, keys = _density(site), _factor(site), mask_keys(site)
    if density == 1:
        return lambda blocks, _: list(blocks)

    def masked(blocks: Sequence[Tensor], start: int) -> list[Tensor]:
        return [_masked(block, key, density, factor, start) for block, key in zip(blocks, keys, strict=True)]

    return masked


def reduced(
    items: Sequence[Part], parts: Parts, site: Site, prune: Prune, merge: Callable[[list[Tensor]], Tensor]
) -> Target:
    """The matrix that `merge` makes of the pruned D_i of `items`, elements in, an element out, in singular form; zero
    where all of `parts` weigh nothing.
    """
    if items:
        matrix = filled(items, parts.shape, lambda blocks, start: merge(prune(blocks, start)))
    else:
        matrix = torch.zeros(parts.shape, device=parts.items[0].A.device)
    seed = mask_key(site.options.seed or 0, "sketch", site.module, site.group)
    # What signs and thresholds leave of the D_i stands out from the noise they make of the rest.
    return sketch(matrix, site.rank, seed=seed % 2**63, steep=sum(part.A.shape[0] for part in items))


def summed(kept: Sequence[Tensor], site: Site) -> Tensor:
    """λ·Σ w_i·D̃_i; the D̃_i are used up."""
    terms = [block.mul_(scale(site) * weight) for block, weight in zip(kept, site.weights, strict=True)]
    total = terms[0]
    for term in terms[1:]:
        total += term
    return total


def scale(site: Site) -> float:
    """λ."""
    return 1.0 if site.options.scale is None else site.options.scale


def _masked(block: Tensor, key: int, density: float, factor: float, start: int) -> Tensor:
    keeps = mask(key, density, start, block.numel()).view(block.shape).to(block.device)
    return block.mul_(keeps).mul_(factor)


def _density(site: Site) -> float:
    return 1.0 if site.options.density is None else site.options.density


def _factor(site: Site) -> float:
    return 1 / _density(site) if site.options.rescale == "density" else 1.0
