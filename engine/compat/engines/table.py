"""The row types of the tables of serving engines."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Literal, TypeAlias

from engine.compat.engines.version import Version, parse_version
from engine.compat.rule import listed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from engine.compat.finding import Severity
    from engine.compat.rule import Hit, Needs, Subject

Outcome = Literal["refuses", "differs", "note"]
Proof = Literal["run", "read", "notes"]

Judge: TypeAlias = "Callable[[Subject, EngineTarget], Iterable[Hit]]"

_SEVERITIES: Mapping[Outcome, Severity] = {"refuses": "error", "differs": "error", "note": "warning"}


@dataclass(frozen=True, slots=True)
class Source:
    """Where a rule was read: `symbol` in `file` of the released package, as of `release`.

    `proof` says how far it is proven: `run` is that code run on planted adapters by `make test-engines`, `read` the
    code read and not run, `notes` a snapshot of the project's repository whose release is not known.
    """

    file: str
    symbol: str
    release: str
    proof: Proof = "read"


@dataclass(frozen=True, slots=True)
class Limit:
    """A setting of the server that decides; `default` is the engine's own, None where it has none: not checked then.

    `kind` int takes a positive number, str a text.
    """

    name: str
    kind: type[int | str]
    default: int | str | None
    meaning: str


@dataclass(frozen=True, slots=True)
class Span:
    """Releases from `since` on and before `before`; an absent side is open. A candidate counts as its release."""

    since: str | None = None
    before: str | None = None

    def holds(self, version: Version | None) -> bool:
        """Whether the release lies inside; None stands for a snapshot without a number and lies in every span."""
        if version is None:
            return True
        low, high = _bound(self.since), _bound(self.before)
        return (low is None or low <= version.release) and (high is None or version.release < high)


@dataclass(frozen=True, slots=True)
class EngineRule:
    """One row. `refuses`: will not load; `differs`: loads, and computes another function; both are errors. `note` is
    what a person should know. `function` is pure and gives one hit per place.
    """

    id: str
    outcome: Outcome
    summary: str
    source: Source
    function: Judge
    span: Span = Span()
    needs: Needs = "config"

    @property
    def severity(self) -> Severity:
        """What a finding of this rule weighs."""
        return _SEVERITIES[self.outcome]


@dataclass(frozen=True, slots=True)
class Engine:
    """One table: `span` are the releases it speaks of, `newest` the last one read (None: an unnumbered snapshot)."""

    name: str
    title: str
    span: Span
    newest: str | None
    rules: tuple[EngineRule, ...]
    limits: tuple[Limit, ...] = ()
    aliases: tuple[str, ...] = ()

    def covers(self, version: Version | None) -> bool:
        """Whether the table speaks of that release; a snapshot's table of no numbered one."""
        return version is None if self.newest is None else self.span.holds(version)


@dataclass(frozen=True, slots=True)
class EngineTarget:
    """An engine, a release of it and its limits, given or by default."""

    engine: Engine
    version: Version | None
    limits: Mapping[str, int | str | None] = field(default_factory=dict)

    def number(self, limit: str) -> int | None:
        """A limit that is a number, None where it is not checked."""
        value = self.limits.get(limit)
        return value if isinstance(value, int) else None

    def text(self, limit: str) -> str:
        """A limit that is a text, empty where it is not set."""
        value = self.limits.get(limit)
        return value if isinstance(value, str) else ""

    @property
    def asked(self) -> str:
        """The text that `parse_target` reads as this target, without what it would take by default."""
        engine = self.engine
        newest = None if engine.newest is None else parse_version(engine.newest)
        release = "" if self.version in (None, newest) else f"@{self.version}"
        said = [
            f":{limit.name}={value}"
            for limit in engine.limits
            if (value := self.limits.get(limit.name, limit.default)) != limit.default
        ]
        return engine.name + release + "".join(said)

    def __str__(self) -> str:
        return self.engine.name if self.version is None else f"{self.engine.name} {self.version}"


def covered(engine: Engine) -> str:
    """The releases a table speaks of, for messages."""
    if engine.newest is None:
        return "one snapshot without a release number"
    return f"from {engine.span.since or 'the first release'} to before {engine.span.before}"


def limit_names(engine: Engine) -> str:
    """The limits an engine knows, for messages."""
    return listed([limit.name for limit in engine.limits], 8) or "none"


@cache
def _bound(text: str | None) -> tuple[int, ...] | None:
    version = None if text is None else parse_version(text)
    return None if version is None else version.release
