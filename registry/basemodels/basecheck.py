"""A base as it is given, and what the rules over a base alone say of an adapter: those that change when it does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from engine.compat.check import ask
from engine.compat.rule import Subject
from engine.compat.rules.table import RULES
from registry.basemodels import bases
from registry.basemodels.basefiles import read_base_place
from registry.values.refs import is_path

if TYPE_CHECKING:
    from engine.compat.finding import Finding
    from engine.compat.shared import Shared
    from engine.format.facts import AdapterFacts, BaseFacts
    from registry.handle import Handle

_OF_BASE = tuple(rule for rule in RULES if rule.needs == "base")


def base_findings(
    facts: AdapterFacts, base: BaseFacts | None, *, name: str | None = None, shared: Shared | None = None
) -> tuple[Finding, ...]:
    """The findings of the rules that need a base; none without one. `name` is what the base was looked up by, `shared`
    keeps what adapters with the same facts have in common.
    """
    if base is None:
        return ()
    subject = Subject(facts, None, base, base_known=True, base_name=name)
    return ask(_OF_BASE, lambda: _OF_BASE, subject, shared)


def base_facts(handle: Handle, base: str) -> BaseFacts:
    """The facts of a base by any of its names, or at a path; NotFoundError for a name that nothing has."""
    if is_path(base):
        return read_base_place(Path(base).expanduser())
    with handle.database.reading() as session:
        return bases.facts_of(bases.get(session, base))
