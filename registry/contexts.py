"""Named contexts: which registry is meant, from a flag, the environment, and the files of project and user.

A registry's home, database and store are taken together from the first of these that says any of them: a context named
by --context; ADAPTERS_HOME and its like, one by one; a context named by ADAPTERS_CONTEXT; the project's file, its
context before its top level; the user's file likewise. So the database of one file's registry is never joined to
the store of another's; a flag or variable replaces the one place that it names and leaves the others as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from registry.errors import UsageError
from registry.project import PLACES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from registry.project import ConfigFile


@dataclass(frozen=True, slots=True)
class Chosen:
    """What the files say together. `over_environment` tells that a flag named the context."""

    name: str | None = None
    source: str | None = None
    values: Mapping[str, str] = field(default_factory=dict)
    over_environment: bool = False

    def place(self, key: str, variable: str | None) -> str | None:
        """A place from the environment or from here."""
        if self.over_environment and (key in PLACES or key in self.values):
            return self.values.get(key)
        return variable or self.values.get(key)


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
