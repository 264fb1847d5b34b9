"""What rules say of many adapters that differ in their tensors' values alone: asked once."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from engine.compat.check import findings_of
from engine.compat.newest import Newest

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator

    from engine.compat.finding import Finding
    from engine.compat.rule import Rule, Subject

MOST_KEPT = 1024
_MOST_TABLES = 64


@dataclass(frozen=True, slots=True)
class _Kept:
    """What a table said of a subject without values; where it has a rule over values, that rule.

    Holds what it was asked about, so that no other object comes to have its identity.
    """

    table: object
    subject: Subject
    parts: tuple[Rule | tuple[Finding, ...], ...]


class Shared:
    """Answers by the identity of what was asked; a class because it keeps the newest MOST_KEPT of them.

    Two adapters share an answer where table, facts and base are the same objects and files, names and licences are
    equal. A rule that asks for values is asked each time, and no other rule is given any, so what is said here is what
    the rules say of the adapter alone.
    """

    def __init__(self, most: int = MOST_KEPT) -> None:
        self._kept = Newest[_Kept](most)
        self._tables: Newest[tuple[object, tuple[Rule, ...]]] = Newest(_MOST_TABLES)

    def findings(
        self, table: object, rules: Callable[[], Iterable[Rule]], subject: Subject
    ) -> Iterator[tuple[Finding, ...]]:
        """What a table's rules say, in their order; `rules` gives them where they are not known yet."""
        blind = subject.without_values()

        def ask() -> _Kept:
            _, rows = self._tables.get(id(table), lambda: (table, tuple(rules())))
            return _Kept(table, blind, tuple(_parts(rows, blind)))

        kept = self._kept.get(_key(table, subject), ask)
        for part in kept.parts:
            yield part if isinstance(part, tuple) else tuple(findings_of(part, subject))


def _parts(rules: Iterable[Rule], blind: Subject) -> Iterator[Rule | tuple[Finding, ...]]:
    for over_values, run in groupby(rules, lambda rule: rule.needs == "values"):
        if over_values:
            yield from run
        else:
            yield tuple(finding for rule in run for finding in findings_of(rule, blind))


def _key(table: object, subject: Subject) -> Hashable:
    surroundings = (subject.base_known, subject.files, subject.base_name, subject.licensing)
    return (id(table), id(subject.facts), id(subject.base), *surroundings)
