"""The order in which modules draw random numbers, and the order of elements within one. No torch."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.format.facts import AdapterFacts
    from engine.merge.plan import ModulePlan


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts numbers within names by value: layers.2 before layers.10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name) if part]


def transposed(module: ModulePlan, parents: Sequence[AdapterFacts]) -> bool:
    """Whether the base lays the module's weight out as ΔW transposed: embeddings, and Conv1D by fan_in_fan_out."""
    first = module.pieces[0]
    lora = parents[first.parent].config.lora
    flipped = first.module.kind == "linear" and lora is not None and lora.fan_in_fan_out
    return first.module.kind == "embedding" or flipped
