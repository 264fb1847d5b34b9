"""How much of a base each form needs: its weights, its modules, what rules say of it, or nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.format.adapter import read_adapter
from registry.artifacts.basefolder import BaseFolder, base_folder, base_names
from registry.artifacts.request import as_place
from registry.basemodels import bases
from registry.basemodels.basecheck import base_facts
from registry.basemodels.basefiles import read_base_place
from registry.errors import NotFoundError
from registry.findings.examine import named_base
from registry.values.refs import is_path

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from registry.artifacts.request import MaterializeRequest
    from registry.artifacts.sources import Adapter
    from registry.handle import Handle


def needed_base(handle: Handle, request: MaterializeRequest, adapters: Sequence[Adapter]) -> BaseFolder | None:
    """The base that decides the result's bytes; None where none does. NotFoundError where it is not there.

    Merged weights need a checkpoint. Images take a base only where one is given, for its modules alone. A plain folder
    needs one where it is rewritten for an engine, and then any that is known.
    """
    if request.kind == "merged":
        return base_folder(handle, request.base, adapters)
    if request.kind == "hotswap":
        return None if request.base is None else _modules(handle, request.base)
    if request.target is None:
        return None
    return _facts(handle, request.base, adapters[0])


def _modules(handle: Handle, text: str) -> BaseFolder:
    """A folder with weights or a config alone."""
    place = as_place(text)
    places = [place.absolute()] if place is not None else _known_places(handle, text)
    for one in places:
        if one.exists():
            facts = read_base_place(one)
            return BaseFolder(text if place is None else str(one), one, facts.fingerprint or facts.layout, facts.layout)
    raise NotFoundError(f"base {text}: no folder of it is here", hint="--base PATH, or adapters base add PATH")


def _known_places(handle: Handle, text: str) -> list[Path]:
    with handle.database.reading() as session:
        names = base_names(session, bases.get(session, text))
    return [place for name in names if is_path(name) and (place := as_place(name)) is not None]


def _facts(handle: Handle, text: str | None, adapter: Adapter) -> BaseFolder | None:
    name = text or (adapter.base.name if adapter.base is not None else named_base(read_adapter(adapter.path)))
    if name is None:
        return None
    if text is None:
        with handle.database.reading() as session:
            if bases.find(session, name) is None:
                return None
    facts = base_facts(handle, name)
    place = as_place(name)
    return BaseFolder(name, None if place is None else place.absolute(), facts.layout, facts.layout)
