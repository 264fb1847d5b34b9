"""A file of findings that are known and accepted, each with a reason: they do not fail a check and are still shown.

[[accepted]]
rule = "vllm-rank"
target = "team/sql"
reason = "served with --max-lora-rank 64"
where = "r"              # optional: this place alone
until = 2027-03-31       # optional: the last day on which it is accepted
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.compat.finding import Finding
from registry.errors import UsageError
from registry.files.newfile import new_file
from registry.findings.verdicts import Accepted, Asked, Verdict
from registry.values.refs import is_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from registry.findings.verdicts import CheckReport

QUESTION = "baseline"
_KEYS = {"rule": str, "target": str, "reason": str, "where": str, "until": date}
_NEEDED = ("rule", "target", "reason")
_ACCEPTABLE = ("error", "inconclusive", "warning")
_LARGEST = 4 << 20
_RULES = (
    Asked("baseline-stale", "An accepted finding is no longer found."),
    Asked("baseline-expired", "An accepted finding was accepted until a day that is past."),
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One accepted finding; `target` is a reference, a name (all its versions) or a path, as given to the check."""

    rule: str
    target: str
    reason: str
    where: str | None = None
    until: date | None = None

    def covers(self, finding: Finding) -> bool:
        """Whether it speaks of this finding."""
        return (
            finding.severity in _ACCEPTABLE
            and finding.rule == self.rule
            and self.where in (None, finding.where)
            and self.names(finding.target)
        )

    def names(self, target: str) -> bool:
        """Whether it speaks of this adapter."""
        if is_path(target) or is_path(self.target):
            return target.rstrip("/") == self.target.rstrip("/")
        given, own = target.replace(":", "@", 1), self.target.replace(":", "@", 1)
        return own in (given, given.partition("@")[0])


@dataclass(frozen=True, slots=True)
class Baseline:
    """A file's entries in order; `place` is how messages call it."""

    place: str
    entries: tuple[Entry, ...] = ()


def read_baseline(path: Path) -> Baseline:
    """The entries of a file; UsageError for one that is not readable, or says something else."""
    try:
        with path.open("rb") as stream:
            content = stream.read(_LARGEST + 1)
    except OSError as error:
        raise UsageError(f"--baseline: {path}: cannot be read: {error.strerror or error}") from None
    if len(content) > _LARGEST:
        raise UsageError(f"--baseline: {path}: more than {_LARGEST} bytes")
    import tomllib

    try:
        document = tomllib.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--baseline: {path}: not readable as TOML: {error}") from None
    accepted = document.pop("accepted", [])
    if document or not isinstance(accepted, list):
        raise UsageError(f"--baseline: {path}: expected nothing but [[accepted]] tables")
    return Baseline(str(path), tuple(_entry(one, f"{path}: entry {n}") for n, one in enumerate(accepted, 1)))


def write_baseline(report: CheckReport, known: Baseline) -> int:
    """Write into the baseline's file what the report found beside what it accepts and is still
    found; how many entries are new.
    """
    kept = [entry for entry in known.entries if any(entry.covers(one.finding) for one in report.accepted)]
    found = dict.fromkeys(
        Entry(finding.rule, finding.target, "accepted when the baseline was written", finding.where)
        for finding in report.findings
        if finding.severity in _ACCEPTABLE and finding.target != known.place
    )
    with new_file(Path(known.place), force=True) as temporary:
        temporary.write_text("".join(_lines((*kept, *found))), encoding="utf-8")
    return len(found)


def apply(report: Iterable[Verdict], baseline: Baseline, today: date) -> Iterator[Verdict]:
    """The verdicts with accepted findings set apart, then what is wrong with the baseline itself."""
    verdicts = list(report)
    valid = [entry for entry in baseline.entries if entry.until is None or today <= entry.until]
    for verdict in verdicts:
        yield _accepting(verdict, valid)
    findings = (*_expired(baseline, verdicts, today), *_stale(baseline, verdicts, valid))
    if findings:
        yield Verdict(baseline.place, QUESTION, findings, _RULES)


def _accepting(verdict: Verdict, entries: Sequence[Entry]) -> Verdict:
    open_, accepted = [], []
    for finding in verdict.findings:
        entry = next((entry for entry in entries if entry.covers(finding)), None)
        if entry is None:
            open_.append(finding)
        else:
            accepted.append(Accepted(finding, entry.reason, entry.until))
    return replace(verdict, findings=tuple(open_), accepted=tuple(accepted))


def _expired(baseline: Baseline, verdicts: Sequence[Verdict], today: date) -> Iterator[Finding]:
    for entry in baseline.entries:
        if entry.until is not None and today > entry.until and _found(entry, verdicts):
            yield _about(baseline, entry, "baseline-expired", f"was accepted until {entry.until}")


def _stale(baseline: Baseline, verdicts: Sequence[Verdict], valid: Sequence[Entry]) -> Iterator[Finding]:
    """Entries about adapters that were asked about, and rules that were asked, or that there are not."""
    for entry in valid:
        asked = [verdict for verdict in verdicts if entry.names(verdict.adapter)]
        rules = {rule.id for verdict in asked for rule in verdict.rules}
        if entry.rule in rules and not _found(entry, verdicts):
            yield _about(baseline, entry, "baseline-stale", "is accepted, and not found any more")


def _found(entry: Entry, verdicts: Sequence[Verdict]) -> bool:
    return any(entry.covers(finding) for verdict in verdicts for finding in verdict.findings)


def _about(baseline: Baseline, entry: Entry, rule: str, what: str) -> Finding:
    place = "" if entry.where is None else f" at {entry.where}"
    return Finding(
        rule,
        "warning",
        f"{entry.rule} of {entry.target}{place} {what}",
        target=baseline.place,
        where=entry.rule,
        fix=f"remove the entry from {baseline.place}",
    )


def _entry(given: Any, place: str) -> Entry:
    if not isinstance(given, dict):
        raise UsageError(f"--baseline: {place}: expected a table")
    unknown = sorted(given.keys() - _KEYS.keys())
    if unknown:
        raise UsageError(f"--baseline: {place}: unknown key {unknown[0][:120]!r}; known: {', '.join(_KEYS)}")
    for key, value in given.items():
        if not isinstance(value, _KEYS[key]) or isinstance(value, datetime):
            expected = "a date" if key == "until" else "a text"
            raise UsageError(f"--baseline: {place}: {key}: expected {expected}, found {str(value)[:120]!r}")
    missing = [key for key in _NEEDED if not str(given.get(key, "")).strip()]
    if missing:
        raise UsageError(f"--baseline: {place}: {missing[0]} is missing or empty")
    return Entry(**given)


def _lines(entries: Iterable[Entry]) -> Iterator[str]:
    for entry in entries:
        yield "[[accepted]]\n"
        for key in _KEYS:
            value = getattr(entry, key)
            if value is not None:
                yield f"{key} = {value.isoformat() if key == 'until' else _quoted(value)}\n"
        yield "\n"


def _quoted(text: str) -> str:
    if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
        raise UsageError(f"--write-baseline: {text[:120]!r} has bytes that are no text, which TOML cannot hold")
    # A JSON string is a TOML basic string, but for DEL.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
