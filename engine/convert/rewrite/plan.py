"""Which rewrites an adapter needs for an engine, and what it is after them; nothing is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.compat.check import check_adapter
from engine.compat.engines.check import check_for
from engine.compat.engines.table import covered
from engine.convert.rewrite.draft import draft_of, refused
from engine.convert.rewrite.table import REWRITES, Request
from engine.errors import OptionError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.compat.engines.table import EngineTarget
    from engine.compat.finding import Finding
    from engine.convert.rewrite.draft import Draft
    from engine.convert.rewrite.table import Rewrite
    from engine.format.facts import AdapterFacts, BaseFacts

_MOST_GROWTH = 64
_ALWAYS_FINE = 2**30
_ASKED_BY_WARNING = frozenset({"tensor-prefix"})


@dataclass(frozen=True, slots=True)
class RewritePlan:
    """The adapter after `rewrites`, in this order; `findings` are what the rules say of it."""

    draft: Draft
    rewrites: tuple[str, ...]
    findings: tuple[Finding, ...]
    initial: AdapterFacts | None = None


def plan_rewrites(
    facts: AdapterFacts,
    target: EngineTarget,
    *,
    base: BaseFacts | None = None,
    files: Iterable[str] = (),
    initial: AdapterFacts | None = None,
    rank: int | None = None,
) -> RewritePlan:
    """The rewrites that clear what `target` and the check-in rules hold against the adapter, in the table's order.

    After each the rules are asked again. `initial` and `rank` ask for their rewrite by themselves. Raises RefusedError
    with every error that remains: what cannot be rewritten is named by its own rule; OptionError for a release outside
    the table. Pure, as `check_for`.
    """
    if not target.engine.covers(target.version):
        raise OptionError(f"{target}: its rules are not known here, the table covers {covered(target.engine)}")
    request = Request(target, rank, initial)
    draft, done, names = draft_of(facts), [], tuple(files)
    found = _findings(draft, target, base, names)
    for row in REWRITES:
        if _asked(row, found, request) and (changed := row.function(draft, request)) != draft:
            draft = changed
            done.append(row.id)
            found = _findings(draft, target, base, names)
    _require_bounded(draft)
    if errors := [finding for finding in found if finding.severity == "error"]:
        raise RefusedError(errors)
    return RewritePlan(draft, tuple(done), found, initial)


def _require_bounded(draft: Draft) -> None:
    """Refuse what one module of an absurd rank would blow all others up to."""
    before, after = draft.source.header.file_size, draft.size
    if after > max(_ALWAYS_FINE, _MOST_GROWTH * before):
        raise refused("size", f"{after} bytes of weights, {after // max(before, 1)} times what they were")


def _findings(
    draft: Draft, target: EngineTarget, base: BaseFacts | None, files: tuple[str, ...]
) -> tuple[Finding, ...]:
    facts = draft.facts()
    general = check_adapter(facts, base=base, base_known=None if base is None else True, files=files)
    return (*general, *check_for(facts, target, base=base, files=files))


def _asked(row: Rewrite, findings: Iterable[Finding], request: Request) -> bool:
    if row.id == "initial" and request.initial is not None:
        return True
    if row.id == "scales" and request.rank is not None:
        return True
    return any(
        finding.rule in row.clears and (finding.severity == "error" or finding.rule in _ASKED_BY_WARNING)
        for finding in findings
    )
