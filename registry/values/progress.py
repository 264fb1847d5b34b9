"""How long work tells how far it is, a function of label, done and total (bytes or modules), and why it waits."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
Notice = Callable[[str], None]


def silent(label: str, done: int, total: int) -> None:
    """Tell nobody."""


def unheard(text: str) -> None:
    """Tell nobody."""
