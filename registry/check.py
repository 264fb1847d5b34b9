"""Check: the check-in rules over stored versions and folders, changing nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from engine.compat.finding import worst_status
from engine.compat.rule import Licensing
from registry import bases
from registry.basefiles import read_base_place
from registry.errors import NotFoundError
from registry.examine import examine, named_base
from registry.intake import scan
from registry.origin import base_licence, folder_origin
from registry.pull import pull
from registry.refs import is_path
from registry.resolve import resolve
from registry.results import CheckReport

if TYPE_CHECKING:
    from engine.compat.finding import Finding
    from engine.format.facts import BaseFacts
    from registry.handle import Handle


def check(handle: Handle, targets: tuple[str, ...], *, base: str | None) -> CheckReport:
    """Judge each target (a reference, or a path) against a base: the given one, else the one its config names.

    A given base that is not known is NotFoundError; an unknown one that a config names is a warning of the rules.
    """
    given = None if base is None else base_facts(handle, base)
    licence = base_licence(Path(base).expanduser()) if base is not None and is_path(base) else None
    findings: list[Finding] = []
    statuses = {}
    for target in targets:
        found = _one(handle, target, given, licence)
        statuses[target] = worst_status(found)
        findings += found
    return CheckReport(status=worst_status(findings), targets=statuses, findings=tuple(findings))


def base_facts(handle: Handle, base: str) -> BaseFacts:
    """The facts of a base by any of its names, or at a path."""
    if is_path(base):
        return read_base_place(Path(base).expanduser())
    with handle.database.reading() as session:
        row = bases.find(session, base)
        if row is None:
            raise NotFoundError(f"base {base!r} is not known", hint="adapters base add PATH --name NAME")
        return bases.facts_of(row)


def _one(handle: Handle, target: str, given: BaseFacts | None, base_terms: str | None) -> list[Finding]:
    if is_path(target):
        folder = Path(target).expanduser()
        files = [file.path for file in scan(folder).files]
        licensing, pushed_for = folder_origin(folder).licensing(base_terms), None
    else:
        licensing, pushed_for = _recorded(handle, target, base_terms)
        folder = pull(handle, handle.ref(target)).path
        files = sorted(path.name for path in folder.iterdir())
    examined = examine(folder)
    base, known = given, given is not None
    name = pushed_for or named_base(examined.facts)
    if base is None and name is not None:
        with handle.database.reading() as session:
            row = bases.find(session, name)
            base, known = (None, False) if row is None else (bases.facts_of(row), True)
    found = examined.findings(base=base, base_known=known, base_name=name, files=files, licensing=licensing)
    return [replace(finding, target=target) for finding in found]


def _recorded(handle: Handle, ref: str, base_terms: str | None) -> tuple[Licensing, str | None]:
    """What the catalog has, whoever said it: the licence, and the base it was pushed for, which need not be the one in
    its config.
    """
    with handle.database.reading() as session:
        version = resolve(session, handle.ref(ref))
        return Licensing(version.licence, base_terms), version.base_name
