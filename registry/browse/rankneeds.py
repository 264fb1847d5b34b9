"""Which rank each module of a stored version needs to keep a share of it, from the spectra its merge measured."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.format.numbers.spectra import rank_for
from registry.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True)
class RanksFor:
    """The fewest ranks of each module that keep `share` of its ‖ΔW‖², null where they are not known.

    `more_than` are the modules that need more ranks than singular values are stored of them, with that number;
    `unknown` those without a spectrum (grouped convolutions).
    """

    share: float
    modules: Mapping[str, int | None]
    more_than: Mapping[str, int]
    unknown: tuple[str, ...]


def ranks_for(
    ref: str, modules: Sequence[Mapping[str, Any]], report: Mapping[str, Any] | None, share: float
) -> RanksFor:
    """Read off the version's documents: what a merge aimed at counts, not what its rank left of it.

    UsageError for a share outside (0, 1]; NotFoundError where no spectrum is stored, which only a merge does.
    """
    if not 0 < share <= 1:
        raise UsageError(f"energy {share}: expected a share in (0, 1]")
    if not any(module.get("spectrum") for module in modules):
        raise NotFoundError(
            f"{ref}: no spectrum is stored; a merge computes it, a push does not",
            hint=f"adapters merge {ref} --combination resize --energy {share:g} --into NAME --dry-run",
        )
    norms = {one["name"]: one.get("target_norm") for one in (report or {}).get("per_module", ())}
    ranks: dict[str, int | None] = {}
    more, unknown = {}, []
    for module in modules:
        name, values = module["name"], module.get("spectrum")
        ranks[name] = None
        if not values:
            unknown.append(name)
        elif (rank := _rank(values, norms.get(name), share)) is None:
            more[name] = len(values)
        else:
            ranks[name] = max(1, rank)
    return RanksFor(share, ranks, more, tuple(unknown))


def _rank(values: Sequence[float], norm: float | None, share: float) -> int | None:
    """`norm` None stands for versions whose merge stored whole spectra alone."""
    levels = [value**2 for value in values]
    return rank_for(levels, math.fsum(levels) if norm is None else norm**2, share)
