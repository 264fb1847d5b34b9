"""Adapters that meet: the answers to questions about them together."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from engine.compat.together.check import check_together
from engine.compat.together.group import Lineage
from engine.compat.together.tables import rules_of
from registry.findings.verdicts import Asked, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from engine.compat.together.question import Question
    from registry.checks.candidates import Candidate, GivenBase


def meet(guests: Sequence[Candidate], questions: Iterable[Question], given: GivenBase | None) -> Iterator[Verdict]:
    """Each question's answer; the verdict is about all of them, `team/a + team/b`. `given` is one base for all."""
    names = [guest.target for guest in guests]
    together = " + ".join(names)
    lineages = [_lineage(guest) for guest in guests]
    for question in questions:
        answer = check_together(
            [guest.facts for guest in guests],
            question,
            base=None if given is None else given.facts,
            bases=lineages,
            names=names,
            norms=[guest.values.norms for guest in guests],
        )
        findings = tuple(replace(finding, target=together) for finding in answer.findings)
        rules = tuple(Asked(rule, summary) for rule, _, summary in rules_of(question.kind))
        yield Verdict(together, str(question), findings, rules, numbers=answer.numbers)


def _lineage(guest: Candidate) -> Lineage:
    return Lineage(guest.base_name, None if guest.base is None else guest.base.fingerprint)
