"""Named contexts: which registry is meant, from a flag, the environment, and the files of project and user.

A registry's home, database and store are taken together from the first of these that says any of them: a context named
by --context; ADAPTERS_HOME and its like, one by one; a context named by ADAPTERS_CONTEXT; the project's file, its
context before its top level; the user's file likewise. So the database of one file's registry is never joined to
the store of another's. A database or store given by flag or variable replaces that one place and leaves the others as
they are. A home is a whole registry: one given by flag or variable, other than the files' own, leaves out every place
of the files, and of a context that no flag named, and `note` says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from registry.errors import UsageError
from registry.project import PLACES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from registry.project import ConfigFile

DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Chosen:
    """What the files say together. `over_environment` tells that a flag named the context."""

    name: str | None = None
    source: str | None = None
    values: Mapping[str, str] = field(default_factory=dict)
    over_environment: bool = False
    note: str | None = None

    def place(self, key: str, variable: str | None) -> str | None:
        """A place from the environment or from here."""
        if self.over_environment and (key in PLACES or key in self.values):
            return self.values.get(key)
        return variable or self.values.get(key)

    def says(self, key: str, variable: str | None, name: str) -> str:
        """What says a place that no flag says: the variable of that name, a file, or `default`."""
        if variable and not self.over_environment:
            return name
        return self.source or DEFAULT if self.values.get(key) else DEFAULT

    def below_home(self, home: str, said_by: str) -> Chosen:
        """The same, without the places that a home given by a flag or variable leaves out."""
        places = {key: self.values[key] for key in PLACES if key in self.values}
        if not home or self.over_environment or (not places and self.name is None):
            return self
        if "home" in places and absolute(places["home"]) == absolute(home):
            return self
        told = self.name is not None or places.keys() - {"home"}
        of = f"context {self.name} in {self.source}" if self.name else self.source
        note = f"{said_by} says which registry is meant: {', '.join(places) or 'nothing'} of {of} does not count"
        values = {key: value for key, value in self.values.items() if key not in PLACES}
        return replace(self, name=None, source=said_by, values=values, note=note if told else None)


def absolute(path: str) -> Path:
    """A folder that was given as text, wherever one stands."""
    return Path(path).expanduser().absolute()


def choose(files: Sequence[ConfigFile], *, flag: str | None, variable: str | None) -> Chosen:
    """The context in force with what the files say beside it; `files` are the project's, then the user's.

    UsageError for a context that no file has.
    """
    named = flag or variable
    layers: list[tuple[str | None, str, Mapping[str, str]]] = []
    if named:
        hint = "adapters context list" if flag else "unset ADAPTERS_CONTEXT, or let it name a known one"
        layers.append((named, *_context(files, named, hint)))
    for file in files:
        own = None if named else file.values.get("context")
        if own:
            layers.append((own, *_context(files, own, f"correct `context` in {file.path}")))
        layers.append((None, str(file.path), file.values))
    return _together(layers, over_environment=bool(flag))


def _together(layers: Sequence[tuple[str | None, str, Mapping[str, str]]], *, over_environment: bool) -> Chosen:
    """Places from one layer; other keys each from the first layer that has it."""
    says = [layer for layer in layers if layer[0] or any(layer[2].get(key) for key in PLACES)]
    name, source, places = says[0] if says else (None, None, {})
    values = {key: value for _, _, content in reversed(layers) for key, value in content.items() if key not in PLACES}
    values |= {key: places[key] for key in PLACES if places.get(key)}
    return Chosen(name, source, values, over_environment)


def _context(files: Sequence[ConfigFile], name: str, hint: str) -> tuple[str, Mapping[str, str]]:
    for file in files:
        if name in file.contexts:
            return str(file.path), file.contexts[name]
    known = sorted({one for file in files for one in file.contexts})
    raise UsageError(
        f"context {name[:120]!r}: not in {' or '.join(str(file.path) for file in files) or 'any adapters.toml'};"
        f" known: {', '.join(known) or 'none'}",
        hint=hint,
    )
