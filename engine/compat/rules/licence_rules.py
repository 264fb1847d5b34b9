"""Rules over licences: of one adapter and its base, and of all the parents of a merge.

They say what the names in cards and flags imply by licences.py. They read no licence and give no advice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.compat.finding import Finding
from engine.compat.rule import Hit, listed
from engine.compat.rules.licences import known, passes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from engine.compat.finding import Severity
    from engine.compat.rule import Subject
    from engine.compat.rules.licences import Licence

_GIVE = "adapters push PATH NAME --licence ID"


@dataclass(frozen=True, slots=True)
class ParentRule:
    """A row of the rules over a merge's parents."""

    id: str
    severity: Severity
    summary: str


CONFLICT = ParentRule("licence-conflict", "error", "Two parents' licences ask for results that exclude each other.")
NO_DERIVATIVES = ParentRule("licence-no-derivatives", "error", "Nothing made from a parent may be passed on.")
INHERITED = ParentRule("licence-inherited", "warning", "One parent's licence restricts the result more than another's.")
SEVERAL = ParentRule("licence-several", "warning", "No single licence stands for all the parents' terms.")
UNNAMED = ParentRule("licence-unnamed", "info", "A parent names no licence, so nothing was compared with it.")
UNFAMILIAR = ParentRule("licence-unfamiliar", "warning", "Nothing is known here of a parent's licence.")
PARENT_RULES = (CONFLICT, NO_DERIVATIVES, INHERITED, SEVERAL, UNFAMILIAR, UNNAMED)


@dataclass(frozen=True, slots=True)
class Combined:
    """What parents' licences make together: the one that the result can be under, None where there is not one."""

    licence: str | None
    findings: tuple[Finding, ...]


def missing(subject: Subject) -> Iterator[Hit]:
    licensing = subject.licensing
    if licensing is not None and licensing.licence is None:
        why = f": {licensing.problem}" if licensing.problem else ""
        yield Hit(f"no licence is named, in the card or otherwise{why}", where="licence", fix=_GIVE)


def unfamiliar(subject: Subject) -> Iterator[Hit]:
    licensing = subject.licensing
    if licensing is not None and licensing.licence is not None and known(licensing.licence) is None:
        yield Hit(f"licence {licensing.licence!r}: nothing is known of it here, so nothing was compared", "licence")


def base_terms(subject: Subject) -> Iterator[Hit]:
    """An adapter under lighter terms than its base is common, and its users are bound by both."""
    licensing = subject.licensing
    base = None if licensing is None else known(licensing.base)
    own = None if licensing is None else known(licensing.licence)
    if base is not None and own is not None and not base.permissive and not passes(base, own):
        yield Hit(
            f"the adapter is {own.id}, its base {_told(base)}: whoever uses both is bound by both",
            where="licence",
        )


def combine(parents: Sequence[tuple[str, str | None]]) -> Combined:
    """The licence of what is made from parents, given as (reference, licence), with all there is to say about it."""
    named = {licence for _, licence in parents}
    rows = [(ref, row) for ref, licence in parents if (row := known(licence)) is not None]
    findings = [*_forbidden(rows), *_unclear(parents)]
    if len(named) == 1:
        return Combined(named.pop(), tuple(findings))
    if len(rows) < len(parents):
        return Combined(None, (*findings, *_conflicts(rows)))
    candidates = [row for _, row in rows if all(passes(one, row) for _, one in rows)]
    if not candidates:
        clash = _conflicts(rows)
        return Combined(None, (*findings, *(clash or [_several(rows)])))
    best = max(candidates, key=lambda row: (not row.permissive, row.strictness))
    if best.permissive and len({row.id for row in candidates if row.strictness == best.strictness}) > 1:
        return Combined(None, (*findings, _several(rows)))
    return Combined(best.id, (*findings, *_inherited(rows, best)))


def _finding(rule: ParentRule, message: str) -> Finding:
    fix = f"merge others, or --allow {rule.id} if you may" if rule.severity == "error" else None
    return Finding(rule.id, rule.severity, message, where="licence", fix=fix)


def _forbidden(rows: Sequence[tuple[str, Licence]]) -> list[Finding]:
    return [
        _finding(NO_DERIVATIVES, f"{ref} is {row.id}: nothing made from it may be passed on")
        for ref, row in rows
        if row.no_derivatives
    ]


def _unclear(parents: Sequence[tuple[str, str | None]]) -> list[Finding]:
    found = []
    for ref, name in parents:
        if not name:
            found.append(_finding(UNNAMED, f"{ref} names no licence: nothing was compared with it"))
        elif known(name) is None:
            found.append(_finding(UNFAMILIAR, f"{ref} is {name!r}, of which nothing is known here"))
    return found


def _conflicts(rows: Sequence[tuple[str, Licence]]) -> list[Finding]:
    """Pairs of which one must stay under its own terms, and the other's cannot become them."""
    found = []
    for place, (ref, row) in enumerate(rows):
        for other_ref, other in rows[place + 1 :]:
            bound = row.share_alike or other.share_alike or other.id in row.refuses or row.id in other.refuses
            if bound and not passes(row, other) and not passes(other, row):
                found.append(
                    _finding(
                        CONFLICT,
                        f"{ref} is {_told(row)}, {other_ref} is {_told(other)}: a result can fulfil only one of them",
                    )
                )
    return found


def _several(rows: Sequence[tuple[str, Licence]]) -> Finding:
    names = listed(sorted({row.id for _, row in rows}), 5)
    return _finding(SEVERAL, f"{names}: the terms of each hold for the result, and no single licence stands for all")


def _inherited(rows: Sequence[tuple[str, Licence]], result: Licence) -> list[Finding]:
    lighter = [ref for ref, row in rows if row.id != result.id]
    if result.permissive or not lighter:
        return []
    ref = next(ref for ref, row in rows if row.id == result.id)
    return [_finding(INHERITED, f"the result is {_told(result)} as {ref} is, although {listed(lighter)} asks for less")]


def _told(row: Licence) -> str:
    return f"{row.id} ({', '.join(row.terms)})" if row.terms else row.id
