"""What one adapter does to one stored tensor: the table, for codecs that travel by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.materialize.changes.dora import Dora
from engine.materialize.changes.experts import Expert, Experts
from engine.materialize.changes.lowrank import LowRank
from engine.materialize.changes.scale import Scale
from engine.materialize.changes.tokens import Tokens
from engine.materialize.changes.vectors import Added, Shift
from engine.materialize.changes.within import Within

if TYPE_CHECKING:
    from collections.abc import Mapping

CHANGES: Mapping[str, type] = {
    kind.__name__: kind for kind in (LowRank, Dora, Expert, Experts, Tokens, Scale, Added, Shift, Within)
}
"""Every change by its name: frozen dataclasses whose fields are Places, numbers, strings, tuples of them or changes."""
