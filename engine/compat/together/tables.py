"""Every rule about adapters that meet, in one list: for reports and pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.compat.together import batch, hotswap, merge
from engine.compat.together.refusals import MEANINGS

if TYPE_CHECKING:
    from engine.compat.finding import Severity
    from engine.compat.together.group import GroupRule
    from engine.compat.together.question import Kind

_PEFT_ALONE = "merge-peft"  # asked by the merge itself, under PEFT's semantics


def rules_of(kind: Kind) -> tuple[tuple[str, Severity, str], ...]:
    """Id, severity and summary of each rule that a question asks."""
    if kind == "merge":
        refused: Severity = "error"
        said = tuple((rule, refused, summary) for rule, summary in MEANINGS.items() if rule != _PEFT_ALONE)
        return (*_rows(merge.BASES), *said, *_rows(merge.UNREAD))
    return _rows(hotswap.RULES if kind == "hotswap" else batch.RULES)


def _rows(rules: tuple[GroupRule, ...]) -> tuple[tuple[str, Severity, str], ...]:
    return tuple((rule.id, rule.severity, rule.summary) for rule in rules)
