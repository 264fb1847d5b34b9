"""What the rules said of stored versions, kept by question: read, written, and told stale where the rules changed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, insert, select

from registry.basemodels import bases
from registry.basemodels.kin import moved_versions
from registry.catalog.among import among
from registry.findings.rulesets import MOVED, NORMED, ruleset
from registry.findings.verdicts import CheckState
from registry.models import Base, CheckResult, Version

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy.orm import Session

    from engine.compat.finding import Status
    from registry.findings.verdicts import Verdict

# check_results.target takes no more; longer questions are answered and not kept.
LONGEST_QUESTION = 128


@dataclass(frozen=True, slots=True)
class KeptCheck:
    """The newest answer to a question about a version. `findings` is a JSON list."""

    version_id: int
    question: str
    ruleset: str
    status: Status
    findings: str


_NEWEST = func.row_number().over(
    partition_by=(CheckResult.version_id, CheckResult.target), order_by=CheckResult.id.desc()
)


def kept_checks(session: Session, ids: Sequence[int]) -> dict[tuple[int, str], KeptCheck]:
    """The newest answers about some versions, by version and question."""
    columns = (
        CheckResult.version_id,
        CheckResult.target,
        CheckResult.ruleset,
        CheckResult.status,
        CheckResult.findings,
    )
    ranked = select(*columns, _NEWEST.label("place")).where(among(CheckResult.version_id)).subquery()
    rows = session.execute(select(ranked).where(ranked.c.place == 1), {"ids": list(ids)})
    kept = (KeptCheck(*row[:-1]) for row in rows)
    return {(one.version_id, one.question): one for one in kept}


def keep(session: Session, answers: Iterable[tuple[int, Verdict]]) -> None:
    """Write answers that have a ruleset, in place of what the same rules said before; they are the newest then."""
    rows = _rows(answers)
    groups: dict[tuple[Any, Any], list[Any]] = {}
    for row in rows:
        groups.setdefault((row["target"], row["ruleset"]), []).append(row["version_id"])
    for (question, rules), ids in groups.items():
        same = CheckResult.target == question, CheckResult.ruleset == rules, among(CheckResult.version_id)
        session.execute(delete(CheckResult).where(*same).execution_options(synchronize_session=False), {"ids": ids})
    if rows:
        session.execute(insert(CheckResult), rows)


def _rows(answers: Iterable[tuple[int, Verdict]]) -> list[dict[str, Any]]:
    rows = {
        (version_id, verdict.question): {
            "version_id": version_id,
            "target": verdict.question,
            "ruleset": verdict.ruleset,
            "status": verdict.status,
            "findings": findings_text(verdict),
        }
        for version_id, verdict in answers
        if verdict.ruleset is not None and len(verdict.question) <= LONGEST_QUESTION
    }
    return list(rows.values())


def findings_text(verdict: Verdict) -> str:
    """The findings as they are kept: of the adapter, however it was called that time."""
    findings = [{**finding.as_json(), "target": "adapter"} for finding in verdict.findings]
    return json.dumps(findings, ensure_ascii=False)


def same_answer(kept: Mapping[tuple[int, str], KeptCheck], version_id: int, verdict: Verdict) -> bool:
    """Whether the newest answer of a version is this one already."""
    one = kept.get((version_id, verdict.question))
    return one is not None and (one.ruleset, one.findings) == (verdict.ruleset, findings_text(verdict))


def check_states(session: Session, ids: Sequence[int]) -> dict[int, tuple[CheckState, ...]]:
    """What is kept about versions, by version, in order of the questions."""
    kept = kept_checks(session, ids)
    stale = stale_checks(session, kept.values())
    found: dict[int, list[CheckState]] = {one: [] for one in ids}
    for (version, question), one in sorted(kept.items()):
        found[version].append(CheckState(question, one.status, (version, question) in stale))
    return {version: tuple(states) for version, states in found.items()}


def stale_checks(session: Session, kept: Iterable[KeptCheck]) -> set[tuple[int, str]]:
    """Which of them other rules gave, or the same for another base."""
    found = list(kept)
    keys = base_keys(session, sorted({one.version_id for one in found}))
    return {
        (one.version_id, one.question) for one in found if one.ruleset != ruleset(one.question, keys[one.version_id])
    }


def base_keys(session: Session, ids: Sequence[int]) -> dict[int, str | None]:
    """The key of the base that each version is judged against today."""
    of = base_ids(session, ids)
    wanted = {"ids": sorted({one for one in of.values() if one is not None})}
    known = select(Base.id, func.coalesce(Base.fingerprint, Base.layout), Base.norms.is_not(None))
    rows = session.execute(known.where(among(Base.id)), wanted)
    keys = {row[0]: f"{row[1]}{NORMED if row[2] else ''}" for row in rows}
    moved = moved_versions(session, ids)
    return {
        version: None if base is None else keys[base] + (MOVED if version in moved else "")
        for version, base in of.items()
    }


def base_ids(session: Session, ids: Sequence[int]) -> dict[int, int | None]:
    """The base that each version was pushed for; where it was not known then, what its name means today."""
    rows = session.execute(
        select(Version.id, Version.base_id, Version.base_name).where(among(Version.id)), {"ids": list(ids)}
    )
    found: dict[int, int | None] = {}
    meanings: dict[str, int | None] = {}
    for version, base, name in rows:
        if base is None and name is not None and name not in meanings:
            meanings[name] = bases.find_id(session, name)
        found[version] = base if base is not None or name is None else meanings[name]
    return found
