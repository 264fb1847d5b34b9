"""Every live version asked again: what today's rules have answered already stays, the rest is judged page by page.

Each page is one transaction, so a run that was killed goes on where it stopped.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from sqlalchemy import select

from engine.compat.finding import Finding
from registry.among import among
from registry.check import judge, questions, with_baseline
from registry.checkcatalog import StoredCatalog
from registry.keptchecks import base_keys, keep, kept_checks
from registry.models import Adapter, Version
from registry.progress import silent
from registry.rulesets import ruleset
from registry.verdicts import Verdict, assemble

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy.orm import Session

    from registry.check import CheckRequest
    from registry.handle import Handle
    from registry.keptchecks import KeptCheck
    from registry.progress import Progress
    from registry.questions import ForEngine
    from registry.verdicts import CheckReport

PAGE = 100
_TOLD = ("error", "inconclusive", "warning")


def recheck(handle: Handle, request: CheckRequest, *, progress: Progress = silent) -> CheckReport:
    """Judge all live versions; the report leaves out what only informs."""
    catalog, verdicts, done = StoredCatalog(handle), list[Verdict](), 0
    with handle.database.reading() as session:
        live = list(session.scalars(select(Version.id).where(Version.deleted_at.is_(None)).order_by(Version.id)))
    for start in range(0, len(live), PAGE):
        page = live[start : start + PAGE]
        progress("checking", done, len(live))
        verdicts += [_loud(verdict) for verdict in _page(handle, catalog, page, request.engines)]
        done += len(page)
    progress("checking", done, len(live))
    return assemble(with_baseline(verdicts, request))


def _page(
    handle: Handle, catalog: StoredCatalog, ids: Sequence[int], engines: tuple[ForEngine, ...]
) -> Iterator[Verdict]:
    asked = tuple(questions(engines))
    with handle.database.reading() as session:
        kept = _current(session, ids, asked)
        names = _names(session, ids)
    open_ids = [one for one in ids if any((one, question) not in kept for question in asked)]
    fresh = list(judged(catalog, open_ids, engines)) if open_ids else []
    if fresh:
        handle.database.write(lambda session: keep(session, fresh))
    answers = {(version, verdict.question): verdict for version, verdict in fresh}
    for one in ids:
        for question in asked:
            if (one, question) in answers:
                yield answers[one, question]
            else:
                yield _as_verdict(kept[one, question], *names[one])


def judged(catalog: StoredCatalog, ids: Sequence[int], engines: tuple[ForEngine, ...]) -> Iterator[tuple[int, Verdict]]:
    """What today's rules say of versions, by version."""
    for candidate in catalog.candidates(ids):
        assert candidate.version_id is not None
        for verdict in judge(candidate, engines):
            yield candidate.version_id, verdict


def _current(session: Session, ids: Sequence[int], asked: Sequence[str]) -> dict[tuple[int, str], KeptCheck]:
    keys = base_keys(session, ids)
    kept = kept_checks(session, ids)
    return {
        place: one
        for place, one in kept.items()
        if one.question in asked and one.ruleset == ruleset(one.question, keys[one.version_id])
    }


def _names(session: Session, ids: Sequence[int]) -> dict[int, tuple[str, str]]:
    columns = (Version.id, Adapter.namespace, Adapter.name, Version.number, Version.digest)
    query = select(*columns).join(Adapter, Adapter.id == Version.adapter_id).where(among(Version.id))
    rows = session.execute(query, {"ids": list(ids)})
    return {row.id: (f"{row.namespace}/{row.name}@{row.number}", row.digest) for row in rows}


def _as_verdict(kept: KeptCheck, ref: str, digest: str) -> Verdict:
    findings = tuple(Finding(**{**item, "target": ref}) for item in json.loads(kept.findings))
    return Verdict(ref, kept.question, findings, digest=digest, ruleset=kept.ruleset, stored=True)


def _loud(verdict: Verdict) -> Verdict:
    return replace(verdict, findings=tuple(one for one in verdict.findings if one.severity in _TOLD))
