"""`context list`, `context show`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from registry.cli.command import Verbs
from registry.cli.shown.output import emit
from registry.cli.shown.text import fields, table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from registry.cli.invocation import Invocation
    from registry.settings import Settings


@click.group(cls=Verbs, examples=["adapters context list", "adapters context show --context prod"])
def context() -> None:
    """Named registries of adapters.toml.

    A table [contexts.prod] with home, database_url, store_url, namespace or cache; chosen by --context prod,
    ADAPTERS_CONTEXT=prod, or `context = "prod"` in the file.
    """


@context.command("list", examples=["adapters context list --format json"])
@click.pass_obj
def list_(invocation: Invocation) -> None:
    """List the contexts that can be named here."""
    settings = invocation.settings
    rows: list[dict[str, Any]] = [
        {"name": name, "current": name == settings.chosen.name, "file": str(file.path), **_places(values)}
        for place, file in enumerate(settings.files)
        for name, values in sorted(file.contexts.items())
        if not any(name in above.contexts for above in settings.files[:place])
    ]
    header = ("NAME", "CURRENT", "DATABASE", "STORE", "HOME", "FILE")
    emit(
        invocation,
        rows,
        human=lambda: table(header, [_cells(row) for row in rows]),
        quiet=lambda: [row["name"] for row in rows],
    )


@context.command("show", examples=["adapters context show", "adapters context show --context prod --format json"])
@click.pass_obj
def show(invocation: Invocation) -> None:
    """Show which registry is in force, and what says so."""
    found = in_force(invocation.settings)
    emit(
        invocation,
        found,
        human=lambda: fields(_lines(found)),
        quiet=lambda: [found["context"] or "-"],
    )


def in_force(settings: Settings) -> dict[str, Any]:
    """The places of some settings and what says each; no password. `source` is the file whose places count, the flag or
    variable that overrules them all, or None.
    """
    return {
        "context": settings.chosen.name,
        "source": settings.chosen.source,
        "home": str(settings.home),
        "database": _shown(settings.resolved_database_url),
        "store": _shown(settings.store_url or str(settings.blobs)),
        "namespace": settings.namespace,
        "files": [str(file.path) for file in settings.files],
        "sources": {key.removesuffix("_url"): source for key, source in settings.sources.items()},
    }


def _lines(found: Mapping[str, Any]) -> dict[str, str]:
    """One line a fact; behind a place, what says it."""
    sources = found["sources"]
    lines = {key: "-" if value is None else str(value) for key, value in found.items() if key != "sources"}
    told = {key: f"{lines[key]} ({sources[key]})" for key in sources}
    return {**lines, **told, "files": ", ".join(found["files"]) or "-"}


def _places(values: Mapping[str, str]) -> dict[str, str | None]:
    shown = {key: values.get(key) for key in ("database_url", "store_url", "home")}
    return {key.removesuffix("_url"): None if value is None else _shown(value) for key, value in shown.items()}


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    places = (row[key] or "-" for key in ("database", "store", "home"))
    return (row["name"], "yes" if row["current"] else "", *places, row["file"])


def _shown(url: str) -> str:
    """A URL without what stands before its host and without its parameters: a secret may be in either.

    A password may itself hold `/` or `?`: where it is not plain which sign ends it, nothing of the place is shown.
    """
    scheme, mark, rest = url.partition("://")
    if not mark or scheme == "sqlite":
        return url
    before, _, place = rest.rpartition("@")
    if "/" in before and ":" not in before:  # a path with an @, and no password
        before, place = "", rest
    return f"{scheme}://{'…' if '?' in before else place.partition('?')[0]}"
