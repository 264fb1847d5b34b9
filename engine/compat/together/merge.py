"""Can these be merged: engine.merge's own refusals, as far as configs and headers tell.

Values, the bytes of embeddings that several hold and a DoRA adapter's base are read by the merge alone.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from engine.compat.check import MOST_PER_RULE
from engine.compat.rule import Hit
from engine.compat.together import siblings
from engine.compat.together.biases import bias_findings
from engine.compat.together.dora import dora_parents, dora_refusal
from engine.compat.together.extras import collisions, having, saved_modules, undecided, unlike_tokens
from engine.compat.together.factors import contradictions
from engine.compat.together.group import GroupRule, name_of
from engine.compat.together.ia3 import all_ia3, ia3_refusals, with_vectors
from engine.compat.together.methods import METHODS
from engine.compat.together.parameters import disagreements, resolved
from engine.compat.together.refusals import refusals
from engine.compat.together.rows import and_more, ask

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from engine.compat.finding import Finding
    from engine.compat.together.group import Group
    from engine.compat.together.methods import Demands
    from engine.format.facts import AdapterFacts

DEFAULT = "svd"
"""The method that is meant where none is named: it takes whatever any method takes."""


def refused(group: Group) -> Iterator[Finding]:
    """Every refusal of the merge, in the order in which engine.merge finds them; none is judged twice."""
    method = group.question.method or DEFAULT
    found = [resolved(with_vectors(facts)) for facts in group.adapters]
    parents = [facts for facts, _ in found]
    yield from ia3_refusals(parents, method) if all_ia3(parents) else refusals(parents)
    for _, unclear in found:
        yield from unclear
    yield from undecided(parents, "refuse")
    yield from unlike_tokens(parents, "refuse")
    yield from collisions(parents, sorted({module for facts in parents for module in saved_modules(facts)}))
    yield from _of_loras(parents, method, with_base=group.one_base)


def _of_loras(parents: Sequence[AdapterFacts], method: str, *, with_base: bool) -> Iterator[Finding]:
    demands = METHODS[method]
    yield from bias_findings(parents, method, linear=demands.linear)
    for facts in dora_parents(parents):
        if (found := dora_refusal(facts, method, with_base=with_base, takes=demands.full_rank)) is not None:
            yield found
    if all(facts.config.lora is not None for facts in parents):
        yield from contradictions(parents)
        yield from disagreements(parents)


def count(group: Group) -> Iterator[Hit]:
    method = group.question.method
    demands = METHODS[method or DEFAULT]
    if method is None:
        yield from siblings.too_few(group)
    elif not demands.fewest <= len(group.adapters) <= (demands.most or len(group.adapters)):
        yield Hit(f"{method} merges {_in_words(demands)}, found {len(group.adapters)}")


def _in_words(demands: Demands) -> str:
    if demands.most is None:
        return f"at least {demands.fewest} adapters"
    return f"exactly {demands.most}" if demands.most == demands.fewest else f"{demands.fewest} to {demands.most}"


def unread(group: Group) -> Iterator[Hit]:
    """Embeddings that several hold, untrained copies mostly: a merge carries them where their bytes are the same."""
    found = having(group.adapters, "embedding")
    if len(found) > 1:
        yield Hit(f"{', '.join(map(name_of, found))} each hold embeddings, whose bytes were not compared")


def dora(group: Group) -> Iterator[Hit]:
    if group.one_base and (found := dora_parents(group.adapters)):
        yield Hit(
            f"{', '.join(map(name_of, found))}: DoRA, whose magnitudes the merge compares with the base's weights"
        )


BASES: tuple[GroupRule, ...] = (
    GroupRule("merge-count", "error", "The method takes another number of adapters.", count),
    GroupRule("merge-base", "error", "The adapters are for different bases.", siblings.different_bases),
    GroupRule("merge-base-unnamed", "warning", "An adapter names no base.", siblings.unnamed_base),
    GroupRule("merge-twins", "warning", "Two adapters make the same change.", siblings.same_change),
)
UNREAD: tuple[GroupRule, ...] = (
    GroupRule("merge-embedding-unread", "info", "Several adapters hold embeddings.", unread),
    GroupRule("merge-dora-unread", "info", "A DoRA adapter is merged through its base.", dora),
)


def findings(group: Group) -> Iterator[Finding]:
    """All that is said of merging these adapters, at most MOST_PER_RULE places a rule."""
    yield from ask(BASES, group)
    told: Counter[str] = Counter()
    for finding in refused(group):
        told[finding.rule] += 1
        if told[finding.rule] <= MOST_PER_RULE:
            yield replace(finding, target=str(group.question), message=_named(finding.message, group))
        elif told[finding.rule] == MOST_PER_RULE + 1:
            yield and_more(finding.rule, "error", group)
    yield from ask(UNREAD, group)


def _named(message: str, group: Group) -> str:
    """The message with the adapter's whole name, where it begins with the last part of it."""
    for facts in group.adapters:
        if message.startswith(f"{facts.path.name} "):
            return name_of(facts) + message.removeprefix(facts.path.name)
    return message
