"""Bars on a terminal, for work that takes longer than a second."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING

from registry.cli.shown.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from registry.cli.invocation import Invocation
    from registry.values.progress import Progress

PATIENCE = 1.0  # seconds before the first bar is drawn


@contextmanager
def bars(invocation: Invocation) -> Iterator[Progress | None]:
    """What to hand to a use case as `progress`: None where stderr is no terminal or only ids were asked for."""
    if invocation.settings.output == "quiet" or sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    drawing = Drawing(_bars)
    try:
        yield drawing.update
    finally:
        drawing.close()


class Drawing:
    """Bars that appear after `PATIENCE`. A class, because it holds the terminal; called from several threads."""

    def __init__(self, build: Callable[[], Bars], *, clock: Callable[[], float] = monotonic) -> None:
        self._build = build
        self._clock = clock
        self._start = clock()
        self._bars: Bars | None = None
        self._tasks: dict[str, TaskID] = {}
        self._lock = Lock()

    def update(self, label: str, done: int, total: int) -> None:
        """Show how far `label` is; nothing is drawn in the first second."""
        if self._bars is None and self._clock() - self._start < PATIENCE:
            return
        with self._lock:
            if self._bars is None:
                self._bars = self._build()
                self._bars.start()
            if label not in self._tasks:
                self._tasks[label] = self._bars.add_task(printable(label), total=total)
            self._bars.update(self._tasks[label], completed=done, total=total)

    def close(self) -> None:
        """Take the bars off the terminal."""
        with self._lock:
            if self._bars is not None:
                self._bars.stop()


def _bars() -> Bars:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
