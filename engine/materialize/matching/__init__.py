"""Which stored tensors an adapter changes, and how; what finds no place is refused by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.compat.finding import Finding
from engine.errors import RefusedError
from engine.format.adapter import read_adapter
from engine.materialize.matching.adapters import effects_of
from engine.materialize.matching.assembled import assembled
from engine.materialize.matching.effect import Effect
from engine.materialize.matching.frame import framed
from engine.materialize.matching.headed import headed
from engine.materialize.matching.repeated import hold_repeated
from engine.materialize.matching.seats import Seats

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.format.facts import AdapterFacts
    from engine.materialize.matching.frame import Ranges
    from engine.materialize.outputs import Outputs
    from engine.materialize.request import Source
    from engine.materialize.stored.checkpoint import Checkpoint

__all__ = ["outputs"]


def outputs(checkpoint: Checkpoint, sources: Sequence[Source]) -> Outputs:
    """Every tensor of the base with the adapters in it.

    Raises RefusedError with a finding for everything that has no place, and the errors of unreadable adapters.
    """
    adapters = [read_adapter(source.path) for source in sources]
    seats = Seats(framed(checkpoint, _ranges(adapters)))
    hold_repeated(seats)
    seats = headed(seats, [facts for source, facts in zip(sources, adapters, strict=True) if source.weight])
    findings: list[Finding] = []
    effects: list[list[Effect]] = []
    for source, facts in zip(sources, adapters, strict=True):
        found = list(effects_of(facts, seats, source.weight))
        findings += [one for one in found if isinstance(one, Finding)]
        effects.append([one for one in found if isinstance(one, Effect) and source.weight])
    if findings:
        raise RefusedError(findings)
    return assembled(seats, effects)


def _ranges(adapters: Sequence[AdapterFacts]) -> Ranges | None:
    """The layers to repeat; raises RefusedError where adapters ask for others than each other."""
    asked = {facts.path: (facts.config.lora and facts.config.lora.layer_replication) or None for facts in adapters}
    if len(set(asked.values())) > 1:
        told = " and ".join(f"{path.name} {[list(one) for one in ranges or ()]}" for path, ranges in asked.items())
        message = f"layer_replication: expected the same of all adapters, found {told}"
        raise RefusedError([Finding("layer-replication", "error", message, where="layer_replication")])
    return next(iter(asked.values()), None)
