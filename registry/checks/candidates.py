"""Adapters to judge, read from folders: facts, values, and the base they are compared with. Opens no catalog."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from registry.basemodels.basefiles import read_base_place
from registry.files.intake import scan
from registry.findings.examine import examine, named_base
from registry.origins.origin import base_licence, folder_origin

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.compat.finding import Finding
    from engine.compat.rule import Licensing
    from engine.format.facts import AdapterFacts, BaseFacts
    from engine.format.numbers.values import ValueFacts
    from registry.findings.verdicts import Asked


@dataclass(frozen=True, slots=True)
class GivenBase:
    """The base that a caller named: what is known of it, and its licence where a card lies beside it."""

    facts: BaseFacts
    licence: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An adapter with all that the rules ask for. `target` is how the caller named it; `digest` the version's;
    `doubts` are what its catalog says of its base and of its twins, by the rules `asked` there;
    `base_moved` tells whether its base's name means another one today.
    """

    target: str
    facts: AdapterFacts
    values: ValueFacts
    files: tuple[str, ...]
    base: BaseFacts | None = None
    base_known: bool = False
    base_name: str | None = None
    licensing: Licensing | None = None
    digest: str | None = None
    version_id: int | None = None
    doubts: tuple[Finding, ...] = ()
    asked: tuple[Asked, ...] = ()
    base_moved: bool = False


def base_at(place: str) -> GivenBase:
    """A base by its path."""
    path = Path(place).expanduser()
    return GivenBase(read_base_place(path), base_licence(path))


def folder_candidate(target: str, given: GivenBase | None, known: Callable[[str], BaseFacts | None]) -> Candidate:
    """The adapter in a folder; `known` looks a base up that its config names, where none is given."""
    folder = Path(target).expanduser()
    files = tuple(file.path for file in scan(folder).files)
    licensing = folder_origin(folder).licensing(None if given is None else given.licence)
    examined = examine(folder, digest=False)
    name = named_base(examined.facts)
    base = given.facts if given is not None else None if name is None else known(name)
    return Candidate(
        target=target,
        facts=examined.facts,
        values=examined.values,
        files=files,
        base=base,
        base_known=base is not None,
        base_name=name,
        licensing=licensing,
    )
