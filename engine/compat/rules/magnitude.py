"""Rules over the size of the change: modules far from the others, and changes larger than what they change."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from engine.compat.layers import base_name
from engine.compat.rule import Hit, listed
from engine.format.names.canonical import canonical

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from engine.compat.rule import Subject

_FEWEST = 8  # fewer norms say nothing of what is usual
_FACTOR = 10.0
_SPREADS = 8.0
_MOST_SHARE = 1.0


def outliers(subject: Subject) -> Iterator[Hit]:
    """A ‖ΔW‖ ten times the median and outside the spread of the others (median absolute deviation of logarithms)."""
    norms = {name: norm for name, norm in _norms(subject).items() if norm > 0}
    if len(norms) < _FEWEST:
        return
    logs = {name: math.log(norm) for name, norm in norms.items()}
    middle = _median(logs.values())
    spread = _median(abs(one - middle) for one in logs.values())
    limit = middle + max(math.log(_FACTOR), _SPREADS * spread)
    if found := sorted((name for name, one in logs.items() if one > limit), key=norms.__getitem__, reverse=True):
        times = norms[found[0]] / math.exp(middle)
        yield Hit(
            f"{len(found)} of {len(norms)} modules change far more than the others: {listed(found)}; "
            f"‖ΔW‖ of the first is {norms[found[0]]:.3g}, {times:.3g} times the median",
            found[0],
        )


def larger_than_base(subject: Subject) -> Iterator[Hit]:
    """‖ΔW‖ above ‖W‖, where the base's norms are known."""
    known = {} if subject.base is None else subject.base.norms
    shares = {}
    for name, norm in _norms(subject).items() if known else ():
        own = known.get(canonical(f"{base_name(name, subject.raw)}.weight"))
        if own is not None and norm > _MOST_SHARE * own:
            shares[name] = norm / own if own else math.inf
    if found := sorted(shares, key=shares.__getitem__, reverse=True):
        yield Hit(
            f"{len(found)} modules change by more than the weight they change: {listed(found)}; "
            f"‖ΔW‖/‖W‖ of the first is {shares[found[0]]:.3g}",
            found[0],
        )


def _median(values: Iterable[float]) -> float:
    """Of at least one; the library's own needs fractions and decimals imported."""
    found = sorted(values)
    half = len(found) // 2
    return found[half] if len(found) % 2 else (found[half - 1] + found[half]) / 2


def _norms(subject: Subject) -> dict[str, float]:
    """Finite ‖ΔW‖ by module."""
    found = {} if subject.values is None else subject.values.norms
    return {name: norm for name, norm in found.items() if norm is not None and math.isfinite(norm)}
