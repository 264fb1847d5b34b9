"""Watch: follow what an alias (or `latest`) names. One query a poll; what is announced is pulled and verified before.

It converges on the newest state. A move that is undone or overtaken between two polls is not seen.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from sqlalchemy import select

from registry.catalog.newest import IS_NEWEST
from registry.errors import NotFoundError, RegistryError, SchemaError, UnavailableError, UsageError
from registry.models import Adapter, Alias, Version
from registry.pulls.hook import run_hook
from registry.pulls.pull import pull
from registry.values.progress import unheard
from registry.versions.resolve import resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from registry.handle import Handle
    from registry.values.progress import Notice
    from registry.values.refs import Ref

_LONGEST_WAIT_S = 60.0  # between two tries while the database or the store is away
_LONGEST_RETRY_S = 300.0  # between two runs of a command that fails


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """What `watched` names now: the first one `current`, then `moved` or `removed` (nothing, so all but the digest
    before is null). `path` holds the version's verified files; `previous_digest` is that of the event before.
    """

    event: Literal["current", "moved", "removed"]
    watched: str
    ref: str | None
    version: int | None
    digest: str | None
    path: Path | None
    previous_digest: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchPlan:
    """How to follow: seconds between polls, seconds in all (None: for ever), whether the first event is the last one,
    and the command to run for each event.
    """

    interval: float = 5.0
    timeout: float | None = None
    once: bool = False
    command: tuple[str, ...] = ()


class Watch:
    """An iterator of events. A class because it holds what it last announced and which command run is still owed.

    A poll or pull that fails (database or store away, wrong bytes) is told and tried again, later each time. So is a
    command that fails: its event is not repeated, and a newer one takes its place.
    """

    def __init__(
        self,
        handle: Handle,
        ref: Ref,
        plan: WatchPlan,
        *,
        notice: Notice = unheard,
        pause: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if ref.number is not None or ref.digest is not None:
            raise UsageError(f"{ref}: never moves; expected an alias such as {ref.name}@prod, or {ref.name}@latest")
        if not plan.interval > 0:
            raise UsageError(f"interval {plan.interval}: expected seconds above 0")
        self._handle, self._ref, self._plan = handle, ref if ref.alias else replace(ref, latest=True), plan
        self._notice, self._pause, self._clock = notice, pause, clock
        self._end = None if plan.timeout is None else clock() + plan.timeout
        self._last: WatchEvent | None = None
        self._trouble: RegistryError | None = None
        self._troubles = 0
        self._failed_runs = 0
        self._events = self._follow()

    def __iter__(self) -> Iterator[WatchEvent]:
        """The events from where it is."""
        return self._events

    def __next__(self) -> WatchEvent:
        """The next event, waited for."""
        return next(self._events)

    @property
    def command_fails(self) -> bool:
        """Whether the command's last run failed, so that a run is still owed."""
        return self._failed_runs > 0

    def _follow(self) -> Iterator[WatchEvent]:
        due = 0.0
        while True:
            event = self._poll()
            if event is not None:
                self._last, self._failed_runs = event, 0
                yield event
            if event is not None or (self.command_fails and self._clock() >= due):
                due = self._clock() + self._run()
            if self._plan.once and self._last is not None and not self.command_fails:
                return
            if not self._wait():
                break
        if self._last is None and self._trouble is not None:
            raise self._trouble

    def _poll(self) -> WatchEvent | None:
        """What changed since the last event, pulled; None for nothing, and for what could not be found out."""
        try:
            event = self._look()
        except SchemaError:
            raise
        except RegistryError as error:
            if self._last is None and not isinstance(error, UnavailableError):
                raise
            self._trouble, self._troubles = error, self._troubles + 1
            return None
        if self._trouble is not None:
            self._notice(f"watching {self._ref} again")
        self._trouble, self._troubles = None, 0
        return event

    def _look(self) -> WatchEvent | None:
        found = self._state()
        last = self._last
        if last is not None and (last.version, last.digest) == (found or (None, None)):
            return None
        before = None if last is None else last.digest
        if found is None:
            return WatchEvent("removed", str(self._ref), None, None, None, None, before)
        number, digest = found
        # The very version that was found, wherever the alias has moved to meanwhile.
        pulled = pull(self._handle, replace(self._ref, number=number, alias=None, latest=False, digest=digest))
        ref = f"{self._ref.name}@{number}"
        kind: Literal["current", "moved"] = "current" if last is None else "moved"
        return WatchEvent(kind, str(self._ref), ref, number, digest, pulled.path, before)

    def _state(self) -> tuple[int, str] | None:
        """Number and digest of what is named now. NotFoundError, as every verb says it, where nothing ever was."""
        name = self._ref.name
        query = select(Version.number, Version.digest).join(Adapter, Adapter.id == Version.adapter_id)
        query = query.where(Adapter.namespace == name.namespace, Adapter.name == name.name)
        if self._ref.alias is None:
            query = query.where(IS_NEWEST)
        else:
            query = query.join(Alias, Alias.version_id == Version.id).where(Alias.name == self._ref.alias)
        with self._handle.database.reading() as session:
            row = session.execute(query).one_or_none()
            if row is None and self._last is None:
                resolve(session, self._ref)
                raise NotFoundError(f"{self._ref}: names nothing")
            return None if row is None else (row.number, row.digest)

    def _run(self) -> float:
        """Run the command for the last event; the seconds after which a failed run is tried again."""
        if not self._plan.command or self._last is None:
            return 0.0
        left = None if self._end is None else self._end - self._clock()
        problem = run_hook(self._plan.command, self._last, limit=left)
        if problem is None:
            self._failed_runs = 0
            return 0.0
        delay = min(_LONGEST_RETRY_S, self._plan.interval * 2.0**self._failed_runs)
        self._failed_runs += 1
        self._notice(f"{problem}; again in {delay:.0f} s unless {self._ref} moves before")
        return delay

    def _wait(self) -> bool:
        """Until the next poll; False where the time is over."""
        # Not in step with others: many services follow one alias.
        seconds = self._plan.interval * random.uniform(0.9, 1.1)  # noqa: S311 (no secret)
        if self._trouble is not None:
            ceiling = min(_LONGEST_WAIT_S, self._plan.interval * 2.0 ** min(self._troubles, 16))
            seconds = random.uniform(min(self._plan.interval, ceiling) / 2, ceiling)  # noqa: S311 (no secret)
            self._notice(f"{self._trouble}; trying again in {seconds:.0f} s")
        left = None if self._end is None else self._end - self._clock()
        if left is not None and left <= 0:
            return False
        self._pause(seconds if left is None else min(seconds, left))
        return True
