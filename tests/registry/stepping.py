"""Work of a registry in a process of its own that stops at a chosen step, and there goes on or dies by SIGKILL.

A step is a transaction, told by the name of its work: before it, inside it after its last statement, or after it. The
hooks wrap `Database.write` of that one process; the product knows nothing of them.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from registry.collecting import claims
from tests.buckets import CREDENTIALS
from tests.registries import open_registry

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PATIENCE_S = 120
# Forks from a server that has no threads and has spoken to no database or store.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(
    ["tests.registry.stepping", "registry.push", "registry.collecting.gc", "sqlalchemy.orm"]
)


@dataclass(frozen=True)
class Place:
    """Where a registry is. `claim_s` shortens what gc claims, `margin_s` what it keeps free at the end of it."""

    home: Path
    database_url: str
    store_url: str | None = None
    claim_s: float = 60
    margin_s: float = 25

    def open(self) -> Any:
        """A registry there. The server that processes are forked from knows no credentials."""
        if self.store_url is not None:
            os.environ.update(CREDENTIALS)  # noqa: TID251 (where obstore looks for them)
        return open_registry(self.home, self.database_url, store_url=self.store_url)


@dataclass(frozen=True)
class Step:
    """`when` is before, inside or after the `turn`-th transaction whose work has this name."""

    when: str
    work: str
    turn: int = 1


class Stepper:
    """One process and its pipe."""

    def __init__(self, place: Place, step: Step | None, work: str, *arguments: Any) -> None:
        self._pipe, theirs = processes.Pipe()
        self.stopped = self.ended = False
        self.answer: Any = None
        self._process = processes.Process(target=_perform, args=(theirs, place, step, work, arguments))
        self._process.start()
        theirs.close()

    def until_stopped(self, patience: float = PATIENCE_S) -> bool:
        """Whether it stands at its step; it may also have ended, or, after `patience`, wait for somebody."""
        if not self.stopped and not self.ended and self._pipe.poll(patience):
            self._hear()
        return self.stopped

    def go_on(self, *, patience: float = PATIENCE_S) -> bool:
        """Whether it has ended; it goes on from its step, or will not stop there."""
        if not self.ended:
            self._pipe.send("go")
        while not self.ended and self._pipe.poll(patience):
            self._hear()
        return self.ended

    def die(self) -> None:
        """By SIGKILL, wherever it is."""
        os.kill(self._process.pid or 0, signal.SIGKILL)
        self._process.join()
        self._pipe.close()

    def pause(self, signal_number: int) -> None:
        """SIGSTOP or SIGCONT."""
        os.kill(self._process.pid or 0, signal_number)

    def result(self, *, patience: float = PATIENCE_S) -> Any:
        """What the work returned; what it raised fails here, as text."""
        while not self.ended:
            assert self._pipe.poll(patience), "still running"
            self._hear()
        self._process.join()
        self._pipe.close()
        kind, value = self.answer
        assert kind == "done", value
        return value

    def _hear(self) -> None:
        said = self._pipe.recv()
        if said == "stopped":
            self.stopped = True
        else:
            self.ended, self.answer = True, said


def _perform(pipe: Any, place: Place, step: Step | None, work: str, arguments: tuple[Any, ...]) -> None:
    claims.CLAIM, claims.MARGIN_S = timedelta(seconds=place.claim_s), place.margin_s
    registry = place.open()
    if step is not None:
        _hook(registry._handle.database, step, lambda: _stop(pipe))
    try:
        pipe.send(("done", WORKS[work](registry, *arguments)))
    except BaseException as error:  # noqa: BLE001 (the parent must hear of it)
        pipe.send(("failed", f"{type(error).__name__}: {error}"))
    finally:
        registry.close()


def _stop(pipe: Any) -> None:
    pipe.send("stopped")
    pipe.recv()


def _hook(database: Any, step: Step, stop: Callable[[], None]) -> None:
    write, seen = database.write, Counter[str]()

    def stepping(work: Callable[[Any], Any]) -> Any:
        name = getattr(work, "func", work).__name__
        seen[name] += 1
        mine = (name, seen[name]) == (step.work, step.turn)
        if mine and step.when == "before":
            stop()
        result = write(inside(work) if mine and step.when == "inside" else work)
        if mine and step.when == "after":
            stop()
        return result

    def inside(work: Callable[[Any], Any]) -> Callable[[Any], Any]:
        tries = Counter[str]()

        def stopping(session: Any) -> Any:
            result = work(session)
            session.flush()
            tries["all"] += 1
            if tries["all"] == 1:
                stop()
            return result

        return stopping

    database.write = stepping


def _push(registry: Any, source: Path, name: str) -> str:
    return str(registry.push(source, name).ref)


def _gc(registry: Any) -> int:
    return int(registry.gc(grace="0").blobs)


WORKS: dict[str, Callable[..., Any]] = {"push": _push, "gc": _gc}
