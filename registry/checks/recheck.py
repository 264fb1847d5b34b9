"""Every live version asked again: what today's rules have answered already stays, the rest is judged page by page.

Each page is one transaction, so a run that was killed goes on where it stopped.
"""

from __future__ import annotations

import gc
import json
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from typing import TYPE_CHECKING

from sqlalchemy import select

from engine.compat.finding import Finding
from engine.compat.shared import Shared
from registry.catalog.among import among
from registry.checks.check import judge, questions, with_baseline
from registry.checks.checkcatalog import StoredCatalog
from registry.findings.keptchecks import base_keys, keep, kept_checks
from registry.findings.questions import ForEngine, parse_engine
from registry.findings.rulesets import ruleset
from registry.findings.verdicts import Verdict, assemble
from registry.models import Adapter, Version
from registry.values.progress import silent

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy.orm import Session

    from registry.checks.check import CheckRequest
    from registry.findings.keptchecks import KeptCheck
    from registry.findings.verdicts import CheckReport
    from registry.handle import Handle
    from registry.settings import Settings
    from registry.values.progress import Progress

PAGE = 100
WORTH_A_PROCESS = 500  # versions: starting Python takes as long as judging so many
_TOLD = ("error", "inconclusive", "warning")


def recheck(handle: Handle, request: CheckRequest, *, progress: Progress = silent, processes: int = 1) -> CheckReport:
    """Judge all live versions, in so many processes; the report leaves out what only informs.

    More than one process starts Python anew: a script that asks for that has its own work under
    `if __name__ == "__main__"`.
    """
    asked = tuple(questions(request.engines))
    with handle.database.reading() as session:
        live = list(session.scalars(select(Version.id).where(Version.deleted_at.is_(None)).order_by(Version.id)))
        pages = [live[start : start + PAGE] for start in range(0, len(live), PAGE)]
        open_ids = [_open(session, page, asked) for page in pages]
    verdicts, done = list[Verdict](), 0
    with _judges(handle, request, open_ids, processes) as answered:
        for page, fresh in zip(pages, answered, strict=True):
            progress("checking", done, len(live))
            if fresh:
                handle.database.write(partial(_keep, fresh))
            verdicts += [_loud(verdict) for verdict in _told(handle, page, asked, fresh)]
            done += len(page)
    progress("checking", done, len(live))
    return assemble(with_baseline(verdicts, request))


def _keep(fresh: Sequence[tuple[int, Verdict]], session: Session) -> None:
    keep(session, fresh)


def _open(session: Session, page: Sequence[int], asked: Sequence[str]) -> list[int]:
    kept = _current(session, page, asked)
    return [one for one in page if any((one, question) not in kept for question in asked)]


@contextmanager
def _judges(
    handle: Handle, request: CheckRequest, pages: Sequence[Sequence[int]], processes: int
) -> Iterator[Iterator[list[tuple[int, Verdict]]]]:
    """The answers about each page's versions in turn, judged here or beside."""
    if processes < 2 or sum(map(len, pages)) < WORTH_A_PROCESS:
        catalog, shared = StoredCatalog(handle), Shared()
        yield (list(judged(catalog, page, request.engines, shared)) if page else [] for page in pages)
        return
    starting = (handle.settings, tuple(engine.label for engine in request.engines))
    with ProcessPoolExecutor(processes, get_context("spawn"), _start, starting) as pool:
        yield pool.map(_answer, pages)


_beside: list[tuple[StoredCatalog, tuple[ForEngine, ...], Shared]] = []


def _start(settings: Settings, engines: Sequence[str]) -> None:
    """In a process beside: what its pages need."""
    from registry.handle import Handle

    gc.set_threshold(100_000)  # facts by the thousand are kept: going over them all again and again costs a tenth
    _beside.append((StoredCatalog(Handle(settings)), tuple(parse_engine(text) for text in engines), Shared()))


def _answer(page: Sequence[int]) -> list[tuple[int, Verdict]]:
    catalog, engines, shared = _beside[-1]
    return list(judged(catalog, page, engines, shared)) if page else []


def _told(
    handle: Handle, ids: Sequence[int], asked: Sequence[str], fresh: Sequence[tuple[int, Verdict]]
) -> Iterator[Verdict]:
    """What is said of a page's versions: just now, or before."""
    answers = {(version, verdict.question): verdict for version, verdict in fresh}
    told = [one for one in ids if (one, asked[0]) not in answers]
    with handle.database.reading() as session:
        kept, names = (_current(session, told, asked), _names(session, told)) if told else ({}, {})
    for one in ids:
        for question in asked:
            if (one, question) in answers:
                yield answers[one, question]
            elif (one, question) in kept:
                yield _as_verdict(kept[one, question], *names[one])


def judged(
    catalog: StoredCatalog, ids: Sequence[int], engines: tuple[ForEngine, ...], shared: Shared
) -> Iterator[tuple[int, Verdict]]:
    """What today's rules say of versions, by version."""
    for candidate in catalog.candidates(ids):
        assert candidate.version_id is not None
        for verdict in judge(candidate, engines, shared=shared):
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
