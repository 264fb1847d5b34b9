"""What the files alone say against running an adapter here: the table's rules, and tensors that belong nowhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.compat.engines.own import TABLE
from engine.compat.engines.table import EngineTarget
from engine.compat.finding import Finding
from engine.compat.rule import Subject

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.format.facts import AdapterFacts

_HERE = EngineTarget(TABLE, None)


def unsupported(facts: AdapterFacts) -> Iterator[Finding]:
    """Every reason in the configuration, and every tensor that belongs nowhere."""
    subject = Subject(facts)
    for rule in TABLE.rules:
        for hit in rule.function(subject, _HERE):
            yield Finding(rule.id, rule.severity, hit.message, where=hit.where, fix=hit.fix)
    if facts.config.lora is None:
        return
    for name in facts.unmatched:
        yield Finding("tensor-unmatched", "error", f"{name}: nothing in the config explains it", where=name)
    for path, present in facts.incomplete.items():
        yield Finding("pair-incomplete", "error", f"{path}: has only {', '.join(present)}", where=path)
