"""Which stored tensors an adapter changes, and how; what finds no place is refused by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.compat.finding import Finding
from engine.compat.layers import base_name
from engine.errors import RefusedError
from engine.format.adapter import read_adapter
from engine.format.canonical import canonical
from engine.materialize.changes.lowrank import LowRank
from engine.materialize.outputs import Output, Outputs
from engine.materialize.place import Place

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.format.facts import AdapterFacts
    from engine.materialize.changes.change import Change
    from engine.materialize.checkpoint import Checkpoint
    from engine.materialize.request import Source


def outputs(checkpoint: Checkpoint, sources: Sequence[Source]) -> Outputs:
    """Raises RefusedError with a finding for everything that has no place in the checkpoint."""
    changes: dict[str, list[Change]] = {}
    modules: dict[str, str] = {}
    findings: list[Finding] = []
    for source in sources:
        facts = read_adapter(source.path)
        for module in facts.modules:
            stored = checkpoint.by_canonical.get(canonical(f"{base_name(module.name, facts.config.raw)}.weight"))
            if stored is None:
                findings.append(Finding("tensor-unmatched", "error", f"{module.name}: the base has no such weight"))
                continue
            modules[stored] = module.base_name
            pair = _place(facts, module.a_key), _place(facts, module.b_key)
            changes.setdefault(stored, []).append(LowRank(*pair, source.weight * module.scaling))
    if findings:
        raise RefusedError(findings)
    return Outputs(
        tuple(
            Output(name, weight, tuple(changes.get(name, ())), modules.get(name, ""))
            for name, weight in checkpoint.tensors.items()
        )
    )


def _place(facts: AdapterFacts, name: str) -> Place:
    info = facts.header.tensors[name]
    return Place(facts.weights, facts.header.data_offset + info.start, info.dtype, info.shape)
