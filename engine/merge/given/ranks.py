"""How many singular values each module keeps: a number, everything, a share of the energy, or a budget of bytes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from engine.errors import OptionError
from engine.format.numbers.spectra import rank_for

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


@dataclass(frozen=True, slots=True)
class RankRule:
    """At most one is given; none of them is the method's own default.

    `rank` for every module, as many as it can use; `energy` the least share of ‖D‖² that every module keeps, in (0, 1];
    `budget` the most bytes of the weights file.
    """

    rank: int | Literal["max"] | None = None
    energy: float | None = None
    budget: int | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.rank, self.energy, self.budget) if value is not None]
        if len(given) > 1:
            raise OptionError("rank, energy and budget exclude each other: give one")
        if self.rank is not None and self.rank != "max" and (not isinstance(self.rank, int) or self.rank < 1):
            raise OptionError(f"rank {self.rank}: expected 1 or more, or max")
        if self.energy is not None and not 0 < self.energy <= 1:
            raise OptionError(f"energy {self.energy}: expected a share in (0, 1]")
        if self.budget is not None and self.budget < 1:
            raise OptionError(f"budget {self.budget}: expected a number of bytes")

    @property
    def measured(self) -> bool:
        """Whether the spectra must be known before the ranks are."""
        return self.energy is not None or self.budget is not None


@dataclass(frozen=True, slots=True)
class Spectrum:
    """What one module's ranks are worth. Steps are ranks, or for a grouped convolution one rank of every group.

    `levels` are the squared singular values of the steps, descending; `energy` is ‖D‖², of which `levels` may be only
    the largest part; `step` is the ranks and `cost` the bytes of one step. `least` are steps that a share of the energy
    was found to need.
    """

    levels: Sequence[float]
    energy: float
    step: int
    cost: int
    least: int = 1


def ranks(rule: RankRule, spectra: Mapping[str, Spectrum], *, fixed: int = 0) -> dict[str, int]:
    """The rank of each module under a measured rule; every module keeps one step at least.

    `fixed` are bytes of the file that no rank changes. Raises OptionError where the budget is too small for one step
    of each.
    """
    if rule.energy is not None:
        return {name: one.step * _steps(one, rule.energy) for name, one in spectra.items()}
    if rule.budget is None:
        raise ValueError("only energy and budget are measured")
    return _within(rule.budget - fixed, spectra, fixed)


def searched(rule: RankRule, look: Callable[[int], Spectrum], *, first: int, most: int) -> Spectrum:
    """What a module's steps are worth where looking at all of them costs too much: `look` sees as many as it is given.

    For a share of the energy, `first` steps and then twice as many each time until they hold it, `most` at the end; the
    number found is looked at once more, because a narrower look may find a little less, and raised until it holds. For
    a budget, four times `first`, and no more than the budget could give this module alone.
    """
    seen = look(min(first, most))
    if rule.energy is None:
        steps = max(1, min(most, 4 * first, (rule.budget or 0) // seen.cost))
        return _cut(look(steps), steps)
    steps = min(first, most)
    while (found := rank_for(seen.levels, seen.energy, rule.energy)) is None and steps < most:
        steps = min(2 * steps, most)
        seen = look(steps)
    needed = max(1, steps if found is None else found)
    while needed < most and rank_for((seen := _cut(look(needed), needed)).levels, seen.energy, rule.energy) is None:
        needed += 1
    return replace(_cut(seen, needed), least=needed)


def _cut(one: Spectrum, steps: int) -> Spectrum:
    return replace(one, levels=one.levels[:steps])


def _steps(one: Spectrum, share: float) -> int:
    found = rank_for(one.levels, one.energy, share)
    return max(one.least, len(one.levels) if found is None else found)


def _within(budget: int, spectra: Mapping[str, Spectrum], fixed: int) -> dict[str, int]:
    """Greedy: the most energy for a byte first. Within a module levels descend, so this takes them in order, and it is
    optimal but for the last step that does not fit.
    """
    left = budget - sum(one.cost for one in spectra.values())
    if left < 0:
        raise OptionError(
            f"budget {budget + fixed}: rank 1 in every module takes {budget + fixed - left} bytes already"
        )
    steps = dict.fromkeys(spectra, 1)
    offers = [(level / one.cost, name) for name, one in spectra.items() for level in one.levels[1:] if level > 0]
    for _, name in sorted(offers, key=lambda offer: (-offer[0], offer[1])):
        if spectra[name].cost <= left:
            left -= spectra[name].cost
            steps[name] += 1
    return {name: one.step * steps[name] for name, one in spectra.items()}
