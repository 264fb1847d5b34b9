"""Run the rules over one adapter."""

from __future__ import annotations

from itertools import chain, islice
from typing import TYPE_CHECKING

from engine.compat.finding import Finding
from engine.compat.rule import Subject
from engine.compat.rules.table import RULES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from engine.compat.rule import Hit, Licensing, Rule
    from engine.compat.shared import Shared
    from engine.format.facts import AdapterFacts, BaseFacts
    from engine.format.numbers.values import ValueFacts

# One damage often shows in every layer; the first places say enough.
MOST_PER_RULE = 20
# A name in a config may be as long as the config.
MOST_LETTERS = 2000


def check_adapter(
    facts: AdapterFacts,
    *,
    values: ValueFacts | None = None,
    base: BaseFacts | None = None,
    base_known: bool | None = None,
    base_name: str | None = None,
    files: Iterable[str] = (),
    licensing: Licensing | None = None,
    shared: Shared | None = None,
) -> tuple[Finding, ...]:
    """Give what the rules say, in the table's order; a rule whose base or values are absent says `skipped` once.

    `base_known` says whether the catalog knows the base (None: nobody asked), `base_name` what it was looked up by
    where that is not the name in the config. `files` are the
    names in the adapter's folder. `shared` keeps what adapters with the same facts have in common. Pure: opens, imports
    and runs nothing, whatever the config says.
    """
    subject = Subject(facts, values, base, base_known, tuple(files), base_name, licensing)
    return ask(RULES, lambda: RULES, subject, shared)


def ask(
    table: object, rules: Callable[[], Iterable[Rule]], subject: Subject, shared: Shared | None = None
) -> tuple[Finding, ...]:
    """What a table's rules say of the adapter, in their order.

    A rule that does not ask for values is given none: it says the same of all adapters that differ in values alone.
    """
    if shared is not None:
        return tuple(chain.from_iterable(shared.findings(table, rules, subject)))
    blind = subject.without_values()
    asked = ((rule, subject if rule.needs == "values" else blind) for rule in rules())
    return tuple(finding for rule, seen in asked for finding in findings_of(rule, seen))


def findings_of(rule: Rule, subject: Subject) -> list[Finding]:
    """What one rule says of the adapter, cut after MOST_PER_RULE places; `skipped` where it lacks what it needs."""
    if rule.needs == "base" and subject.base is None:
        return [Finding(rule.id, "skipped", "no base model to compare with")]
    if rule.needs == "values" and subject.values is None:
        return [Finding(rule.id, "skipped", "the tensors were not read")]
    hits = list(islice(rule.function(subject), MOST_PER_RULE + 1))
    found = [_finding(rule, hit) for hit in hits[:MOST_PER_RULE]]
    if len(hits) > MOST_PER_RULE:
        found.append(Finding(rule.id, rule.severity, f"and more places; the first {MOST_PER_RULE} are listed"))
    return found


def _finding(rule: Rule, hit: Hit) -> Finding:
    message = hit.message if len(hit.message) <= MOST_LETTERS else f"{hit.message[: MOST_LETTERS - 3]}..."
    return Finding(rule.id, rule.severity, message, where=hit.where, fix=hit.fix)
