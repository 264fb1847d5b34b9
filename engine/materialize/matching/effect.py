"""What one adapter does to one parameter of the model: frozen values, in the parameter's own shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.materialize.stored.place import placed

if TYPE_CHECKING:
    from engine.format.facts import AdapterFacts
    from engine.materialize.changes.change import Change
    from engine.materialize.stored.place import Place


@dataclass(frozen=True, slots=True)
class Effect:
    """`change` is added to the parameter at `path`, or `copy` takes its place; `module` is what holds it.

    A copy is whole, or with `share` that part of the way from the base's numbers to its own, to which ways of other
    adapters add up. What acts on the base's own tensor `spreads` to parameters that share it.
    """

    path: str
    module: str
    change: Change | None = None
    copy: Place | None = None
    share: float | None = None
    spreads: bool = False


def place_of(facts: AdapterFacts, name: str) -> Place:
    """Where an adapter's tensor lies."""
    info = facts.header.tensors[name]
    return placed(facts.weights, facts.header, info)
