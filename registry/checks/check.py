"""Check: the rules over references and folders. Folders against a base's path open no catalog; answers about versions
are kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from engine.compat.check import check_adapter
from engine.compat.engines.check import check_for
from engine.compat.rules.table import RULES
from registry.checks.candidates import Candidate, GivenBase, base_at, folder_candidate
from registry.errors import UsageError
from registry.findings.questions import ForEngine, parse_engine
from registry.findings.rulesets import base_key, ruleset
from registry.findings.verdicts import CHECKIN, Asked, Verdict, assemble
from registry.values.refs import is_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from engine.compat.finding import Finding
    from engine.compat.shared import Shared
    from engine.compat.together.question import Question
    from engine.format.facts import BaseFacts
    from registry.checks.baseline import Baseline
    from registry.findings.verdicts import CheckReport
    from registry.settings import Settings

_CHECKIN_RULES = tuple(Asked(rule.id, rule.summary) for rule in RULES)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRequest:
    """What is asked: `targets` are references or paths, `base` a base's name or path.

    `together` is asked of targets and `others` at once. `everything` asks about all live versions instead. With `lock`
    each reference must mean what that file says, and without targets all that it names are asked about. `baseline` are
    accepted findings, as of the day `today`.
    """

    targets: tuple[str, ...]
    base: str | None = None
    engines: tuple[ForEngine, ...] = ()
    others: tuple[str, ...] = ()
    together: tuple[Question, ...] = ()
    everything: bool = False
    lock: Path | None = None
    baseline: Baseline | None = None
    today: date = field(default_factory=date.today, compare=False)

    @property
    def on_disk(self) -> bool:
        """Whether every adapter asked about is a folder, and a given base too."""
        if self.everything or self.lock is not None:
            return False
        return all(is_path(name) for name in (*self.targets, *self.others, *filter(None, [self.base])))


class Catalog(Protocol):
    """What a check asks of a registry."""

    def base(self, name: str) -> BaseFacts:
        """A base by any of its names; NotFoundError where it is not known."""

    def known_base(self, name: str) -> BaseFacts | None:
        """The same, None where it is not known."""

    def candidate(self, ref: str, given: GivenBase | None) -> Candidate:
        """The version that a reference names."""

    def remember(self, answers: Iterable[tuple[int, Verdict]]) -> None:
        """Keep what was said of versions."""


def check_request(
    targets: Iterable[str],
    *,
    base: str | None = None,
    for_engines: Iterable[str] = (),
    with_refs: Iterable[str] = (),
    together: Iterable[str] = (),
    everything: bool = False,
    lock: str | Path | None = None,
    baseline: str | Path | None = None,
    new_baseline: bool = False,
) -> CheckRequest:
    """What was asked for, parsed and read.

    UsageError for what cannot be asked together and for a wrong file, engine.errors.OptionError for an engine or a
    question that is none.
    """
    named, others = tuple(targets), tuple(with_refs)
    asked = _parsed(together)
    if others and not asked:
        raise UsageError("--with gives adapters to meet: ask with --together merge, hotswap or batch")
    place = None if lock is None else Path(lock).expanduser()
    if everything and (named or base is not None or place is not None or asked):
        raise UsageError(
            "--all asks about each version alone, against its own base: no REF, --base, --together or --locked"
        )
    if not named and place is not None:
        from registry.checks.lock import read_lock

        named = tuple(pin.ref for pin in read_lock(place))
    if not named and not everything:
        raise UsageError("expected a REF or PATH to check", hint="adapters check --help")
    engines = {one.label: one for one in map(parse_engine, for_engines)}
    return CheckRequest(
        targets=named,
        base=base,
        engines=tuple(engines.values()),
        others=others,
        together=asked,
        everything=everything,
        lock=place,
        baseline=_baseline(baseline, new=new_baseline),
    )


def _parsed(together: Iterable[str]) -> tuple[Question, ...]:
    """The questions about several adapters; their rules are imported where one is asked."""
    asked = dict.fromkeys(together)
    if not asked:
        return ()
    from engine.compat.together.question import parse_question

    return tuple(parse_question(question) for question in asked)


def _meet(candidates: Sequence[Candidate], asked: tuple[Question, ...], given: GivenBase | None) -> Iterable[Verdict]:
    if not asked:
        return ()
    from registry.checks.meeting import meet

    return meet(candidates, asked, given)


def _baseline(file: str | Path | None, *, new: bool) -> Baseline | None:
    if file is None:
        if new:
            raise UsageError("--write-baseline: expected --baseline FILE, where to write it")
        return None
    from registry.checks.baseline import Baseline, read_baseline

    place = Path(file).expanduser()
    return Baseline(str(place)) if new and not place.exists() else read_baseline(place)


def needs_catalog(request: CheckRequest, settings: Settings) -> bool:
    """Whether a registry must be asked: not for folders against a base's path, nor where there is none yet."""
    if not request.on_disk:
        return True
    return request.base is None and settings.has_catalog


def check(request: CheckRequest, catalog: Callable[[], Catalog] | None) -> CheckReport:
    """Judge each target against a base: the given one, else the one its config names.

    A given base that is not known is NotFoundError; an unknown one that a config names is a warning of the rules.
    Without a catalog no base is known by name, and every target must be a path.
    """
    given = None if request.base is None else _given(request.base, catalog)
    candidates = [_candidate(target, given, catalog) for target in request.targets]
    if request.lock is not None:
        from registry.checks.lock import read_lock, require_locked

        require_locked(request.lock, read_lock(request.lock), candidates)
    said = [(one, verdict) for one in candidates for verdict in judge(one, request.engines)]
    stored = [(one.version_id, verdict) for one, verdict in said if one.version_id is not None]
    if stored and given is None and catalog is not None:
        catalog().remember(stored)
    others = [_candidate(other, given, catalog) for other in request.others]
    met = _meet([*candidates, *others], request.together, given)
    return assemble(with_baseline([*(verdict for _, verdict in said), *met], request))


def with_baseline(verdicts: Iterable[Verdict], request: CheckRequest) -> Iterable[Verdict]:
    """The verdicts, accepted findings set apart where there is a baseline."""
    if request.baseline is None:
        return verdicts
    from registry.checks.baseline import apply

    return apply(verdicts, request.baseline, request.today)


def judge(candidate: Candidate, engines: Iterable[ForEngine], *, shared: Shared | None = None) -> Iterator[Verdict]:
    """What the check-in rules say of an adapter, then what each engine's table does; `shared` is for judging many."""
    asked = (*_CHECKIN_RULES, *candidate.asked)
    yield _verdict(candidate, CHECKIN, (*check_in(candidate, shared=shared), *candidate.doubts), asked)
    for engine in engines:
        found = check_engine(candidate, engine, shared=shared)
        yield _verdict(candidate, engine.label, found, engine_rules(engine))


def questions(engines: Iterable[ForEngine]) -> Iterator[str]:
    """The questions that `judge` answers, in its order."""
    yield CHECKIN
    for engine in engines:
        yield engine.label


def check_in(candidate: Candidate, *, shared: Shared | None = None) -> tuple[Finding, ...]:
    """The check-in rules."""
    return check_adapter(
        candidate.facts,
        values=candidate.values,
        base=candidate.base,
        base_known=candidate.base_known,
        base_name=candidate.base_name,
        files=candidate.files,
        licensing=candidate.licensing,
        shared=shared,
    )


def check_engine(candidate: Candidate, engine: ForEngine, *, shared: Shared | None = None) -> tuple[Finding, ...]:
    """One engine's table."""
    return check_for(
        candidate.facts,
        engine.target,
        base=candidate.base,
        values=candidate.values,
        files=candidate.files,
        shared=shared,
    )


def engine_rules(engine: ForEngine) -> tuple[Asked, ...]:
    """The rows that are asked for the release, none where the table does not speak of it."""
    table, version = engine.target.engine, engine.target.version
    if not table.covers(version):
        return ()
    return tuple(Asked(row.id, row.summary) for row in table.rules if row.span.holds(version))


def _verdict(candidate: Candidate, question: str, found: Iterable[Finding], rules: tuple[Asked, ...]) -> Verdict:
    findings = tuple(replace(finding, target=candidate.target) for finding in found)
    asked_by = ruleset(question, base_key(candidate.base, moved=candidate.base_moved))
    return Verdict(candidate.target, question, findings, rules, digest=candidate.digest, ruleset=asked_by)


def _given(base: str, catalog: Callable[[], Catalog] | None) -> GivenBase:
    if is_path(base):
        return base_at(base)
    assert catalog is not None
    return GivenBase(catalog().base(base))


def _candidate(target: str, given: GivenBase | None, catalog: Callable[[], Catalog] | None) -> Candidate:
    if is_path(target):
        return folder_candidate(target, given, lambda name: None if catalog is None else catalog().known_base(name))
    assert catalog is not None
    return catalog().candidate(target, given)
