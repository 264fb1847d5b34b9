from __future__ import annotations

import sys
from typing import Any

import pytest

from registry.cli.invocation import Invocation
from registry.cli.shown.progress import Drawing, _bars, bars
from registry.settings import Settings


class Recorder:
    """Stands where rich's bars stand."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def start(self) -> None:
        self.seen.append("start")

    def stop(self) -> None:
        self.seen.append("stop")

    def add_task(self, description: str, *, total: int) -> int:
        self.seen.append((description, total))
        return len(self.seen)

    def update(self, task: int, *, completed: int, total: int) -> None:
        self.seen.append((completed, total))


class Clock:
    """Seconds that pass when told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def _drawing() -> tuple[Drawing, Recorder, Clock]:
    recorder, clock = Recorder(), Clock()
    return Drawing(lambda: recorder, clock=clock), recorder, clock  # type: ignore[arg-type,return-value] (a stand-in)


def test_work_under_a_second_draws_nothing():
    drawing, recorder, clock = _drawing()

    clock.now = 0.99
    drawing.update("hashing", 1, 10)
    drawing.close()

    assert recorder.seen == []


def test_work_over_a_second_draws_one_bar_a_label_and_takes_them_away():
    drawing, recorder, clock = _drawing()

    clock.now = 1.01
    drawing.update("hashing", 1, 10)
    drawing.update("hashing", 2, 10)
    drawing.update("copy\x1b[2J", 5, 5)
    drawing.close()

    assert recorder.seen == ["start", ("hashing", 10), (1, 10), (2, 10), (r"copy\x1b[2J", 5), (5, 5), "stop"]


@pytest.mark.parametrize(
    ("terminal", "output", "drawn"),
    [(False, "human", False), (True, "human", True), (True, "json", True), (True, "quiet", False)],
)
def test_bars_need_a_terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Any, terminal: bool, output: str, drawn: bool):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)

    with bars(Invocation(loaded=Settings(home=tmp_path, output=output))) as progress:
        assert (progress is not None) is drawn


def test_bars_go_to_stderr():
    """stdout is for data."""
    assert _bars().console.stderr
