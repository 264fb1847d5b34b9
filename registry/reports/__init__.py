"""Reports of a check for machines and pages: one pure writer per format, `report, policy -> text`."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from registry.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from registry.findings.verdicts import CheckReport, Policy

    Writer = Callable[[CheckReport, Policy], str]

FORMATS = ("text", "json", "junit", "sarif", "github", "markdown")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A report that was asked for: a format, and the file it goes to; None is stdout."""

    form: str
    file: Path | None = None


def writer(form: str) -> Writer:
    """The function that writes a format."""
    found: Writer = import_module(f"registry.reports.{form}").write
    return found


def parse_wanted(texts: Iterable[str]) -> tuple[Wanted, ...]:
    """`FORMAT` or `FORMAT=FILE`, each; UsageError for another format, two on stdout, or two in one file."""
    found = tuple(_parse(text) for text in texts)
    places = [None if one.file is None else one.file.absolute() for one in found]
    if places.count(None) > 1:
        raise UsageError(
            "--report: at most one report goes to stdout", hint="give the others a file: --report FORMAT=FILE"
        )
    for place in places:
        if place is not None and places.count(place) > 1:
            raise UsageError(f"--report: {place} is named twice")
    return found


def _parse(text: str) -> Wanted:
    form, mark, file = text.partition("=")
    if form not in FORMATS:
        raise UsageError(f"--report {text[:120]!r}: expected FORMAT or FORMAT=FILE with one of {', '.join(FORMATS)}")
    if mark and not file:
        raise UsageError(f"--report {text[:120]!r}: expected a file after =")
    return Wanted(form, Path(file).expanduser() if mark else None)
