"""Which plan a batch by rows gets: a rule of a few measured numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from engine.kernels.plans import Padded, Segments, Whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.kernels.plans import Plan


@dataclass(frozen=True, slots=True)
class Limits:
    """`long`: tokens a row from which every run of rows is multiplied where it lies. `empty`: places without a token
    for each row of the batch, up to which tokens are padded to slots side by side. `apart`: runs a slot up to which
    sorting the tokens does not pay.

    Measured by `benchmarks/engine_plans.py` on a CPU (benchmarks/RESULTS.md).
    """

    long: int
    empty: float
    apart: float


MEASURED = Limits(long=8, empty=2.5, apart=1.5)


def rows_plan(rows: Sequence[int], per_row: int, device: torch.device, limits: Limits = MEASURED) -> Plan:
    """The way to run rows of `per_row` tokens, each through its slot, that measured fastest. 0 is the base's slot."""
    used = sorted(set(rows) - {0})
    if len(used) == 1 and 0 not in rows:
        return Whole((used[0],), (1.0,))
    if not used or not per_row or per_row >= limits.long:
        return in_place(rows, per_row)
    places = (used[-1] + 1 - used[0]) * max(rows.count(slot) for slot in used)
    if (places - len(rows)) * per_row <= limits.empty * len(rows):
        return padded(rows, per_row, device)
    runs = in_place(rows, per_row)
    return runs if len(runs.bounds) <= limits.apart * len(used) else ordered(rows, per_row, device)


def in_place(rows: Sequence[int], per_row: int) -> Segments:
    """The runs of neighbours of one slot, where they lie."""
    return Segments(_bounds(rows, per_row), None)


def ordered(rows: Sequence[int], per_row: int, device: torch.device) -> Segments:
    """One run a slot, of tokens that are brought together."""
    order = sorted((row for row, slot in enumerate(rows) if slot), key=rows.__getitem__)
    return Segments(_bounds([rows[row] for row in order], per_row), _tokens(order, per_row, device))


def padded(rows: Sequence[int], per_row: int, device: torch.device) -> Padded:
    """As many places for every slot between the lowest and the highest as the fullest needs."""
    used = set(rows) - {0}
    low, high = min(used), max(used) + 1
    width = max(rows.count(slot) for slot in used)
    take, give, to = [0] * ((high - low) * width), [], []
    filled = dict.fromkeys(used, 0)
    for row, slot in enumerate(rows):
        if slot:
            place = (slot - low) * width + filled[slot]
            filled[slot] += 1
            take[place] = row
            give.append(place)
            to.append(row)
    taken, width = _tokens(take, per_row, device), width * per_row
    if len(give) == len(take):
        return Padded(low, high, width, taken, None, taken)
    given_to = None if len(to) == len(rows) else _tokens(to, per_row, device)
    return Padded(low, high, width, taken, _tokens(give, per_row, device), given_to)


def _bounds(rows: Sequence[int], per_row: int) -> tuple[tuple[int, int, int], ...]:
    bounds: list[tuple[int, int, int]] = []
    before = 0
    for row, slot in enumerate(rows):
        stop = (row + 1) * per_row
        if slot and slot == before:
            bounds[-1] = (slot, bounds[-1][1], stop)
        elif slot:
            bounds.append((slot, row * per_row, stop))
        before = slot
    return tuple(bounds)


def _tokens(rows: Sequence[int], per_row: int, device: torch.device) -> torch.Tensor:
    """The tokens of these rows, row by row."""
    first = torch.tensor(rows, dtype=torch.int64, device=device)[:, None] * per_row
    return (first + torch.arange(per_row, device=device)).flatten()
