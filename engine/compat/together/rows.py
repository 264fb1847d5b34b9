"""Run a table of rules over several adapters."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from engine.compat.check import MOST_PER_RULE
from engine.compat.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from engine.compat.finding import Severity
    from engine.compat.together.group import Group, GroupRule


def ask(rules: Iterable[GroupRule], group: Group) -> Iterator[Finding]:
    """What the rules say, in their order, each cut after MOST_PER_RULE places; every target is the question."""
    for rule in rules:
        hits = list(islice(rule.function(group), MOST_PER_RULE + 1))
        for hit in hits[:MOST_PER_RULE]:
            yield Finding(rule.id, rule.severity, hit.message, str(group.question), hit.where, hit.fix)
        if len(hits) > MOST_PER_RULE:
            yield and_more(rule.id, rule.severity, group)


def and_more(rule: str, severity: Severity, group: Group) -> Finding:
    """Says that more places are not listed."""
    return Finding(rule, severity, f"and more places; the first {MOST_PER_RULE} are listed", str(group.question))
