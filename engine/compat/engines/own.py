"""The project's own LoRA engine, `engine/model`: what it runs today.

The constants say it; whoever builds a layer kind adds it here, and the tests hold the two together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.compat.engines.table import Engine, EngineRule, Source, Span
from engine.compat.rule import Hit, listed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.compat.engines.table import EngineTarget
    from engine.compat.rule import Subject

RUNS_TYPES: frozenset[str] = frozenset()
"""The peft_types that `engine/model` attaches: none in 0.1, which builds a model's skeleton and no layers."""

_SOURCE = Source("engine/model/skeleton.py", "layout_from_config", "0.1.0")


def _type(subject: Subject, _target: EngineTarget) -> Iterator[Hit]:
    kind = subject.facts.config.peft_type
    if kind not in RUNS_TYPES:
        runs = listed(sorted(RUNS_TYPES), 8) or "no type yet"
        yield Hit(f"peft_type: expected a type that runs here ({runs}), found {kind!r:.80}", "peft_type")


RULES = (EngineRule("own-type", "refuses", "The type does not run here yet.", _SOURCE, _type),)

TABLE = Engine("own", "our engine", Span(since="0.1", before="0.2"), "0.1.0", RULES, aliases=("adapters",))
