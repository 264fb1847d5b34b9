"""Which rules gave an answer: a digest of their code and of the base they compared with.

A stored answer under another digest is stale: the rules, the tables or the base have changed since.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import engine.compat
import engine.format
from engine.compat.engines.target import find_engine
from engine.errors import OptionError
from registry.findings.verdicts import CHECKIN

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.format.facts import BaseFacts


NORMED = "+norms"
MOVED = "+moved"
_APART = {"capacity", "engines", "together"}
"""Rooms of engine.compat that no check-in rule is in; of engines, the table asked counts."""


def ruleset(question: str, base: str | None) -> str:
    """The digest for a question (`checkin`, `vllm@0.33.0:…`) and a base's key, None where no base was compared with."""
    return _digest(_engine_of(question), base or "")


def base_key(base: BaseFacts | None, *, moved: bool = False) -> str | None:
    """What tells bases apart for the rules: what it holds, whether its weights' norms are known, and whether the name
    that a version has of it means another today.
    """
    return None if base is None else f"{base_digest(base)}{NORMED if base.norms else ''}{MOVED if moved else ''}"


def base_digest(base: BaseFacts | None) -> str | None:
    """The fingerprint, or the layout where that is all there is."""
    return None if base is None else base.fingerprint or base.layout


def _engine_of(question: str) -> str | None:
    name = question.partition(":")[0].partition("@")[0]
    try:
        return None if name == CHECKIN else find_engine(name).name
    except OptionError:  # kept by a release that had that table
        return None


@cache
def _digest(table: str | None, base: str) -> str:
    told = hashlib.sha256(_rules(table).encode() + base.encode())
    return f"sha256:{told.hexdigest()}"


@cache
def _rules(table: str | None) -> str:
    """Of the source of all that judges: any change to it counts, whatever it does."""
    told = hashlib.sha256()
    for file in (*_sources(engine.format.__path__), *_sources(engine.compat.__path__), *_tables(table)):
        told.update(f"{file.name}\0".encode() + _content(file))
    return told.hexdigest()


@cache
def _content(file: Path) -> bytes:
    return hashlib.sha256(file.read_bytes()).digest()


def _sources(packages: Iterable[str]) -> list[Path]:
    """The code of these packages and of their rooms, but of those in `_APART`."""
    files = (file for package in packages for file in Path(package).rglob("*.py"))
    return sorted(file for file in files if file.parent.name not in _APART)


def _tables(name: str | None) -> list[Path]:
    """The files that an engine's table takes its functions from, and those that all tables share."""
    if name is None:
        return []
    package = Path(next(iter(import_module("engine.compat.engines").__path__)))
    shared = {"check", "table", "traits", "version"}
    modules = {row.function.__module__.rpartition(".")[2] for row in find_engine(name).rules}
    return sorted(file for file in package.glob("*.py") if file.stem in shared | modules or file.stem.startswith(name))
