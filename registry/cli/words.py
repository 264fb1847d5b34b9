"""What may stand where a command line has a metavar: the words that TAB offers there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from click.shell_completion import CompletionItem

from registry.values.refs import is_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import click

    from registry.settings import Settings

    Source = Callable[[Settings, click.Context, str], Iterable[str]]

_FILES = frozenset({"PATH", "SOURCE", "FILE"})
_PATH_TOO = frozenset({"REF-or-PATH", "PATH-or-REF", "BASE", "ARTIFACT", *_FILES})


def suggest(context: click.Context, metavar: str, text: str) -> list[CompletionItem]:
    """Words that begin with the text for a parameter of this metavar; nothing for one that is not known."""
    from registry.cli.invocation import Invocation

    if metavar == "DIR":
        return [CompletionItem(text, type="dir")]
    if metavar in _FILES or (metavar in _PATH_TOO and is_path(text)):
        return [CompletionItem(text, type="file")]
    source, invocation = SOURCES.get(metavar), context.find_object(Invocation)
    if source is None or invocation is None:
        return []
    return [
        CompletionItem(word) for word in source(invocation.settings, context, text) if word.startswith(text.lower())
    ]


def _references(settings: Settings, context: click.Context, text: str) -> list[str]:
    from registry.completion import references

    return references(settings, text, deleted=context.command.name == "undelete")


def _names(settings: Settings, _context: click.Context, text: str) -> list[str]:
    from registry.completion import names

    return names(settings, text)


def _aliases(settings: Settings, context: click.Context, _text: str) -> list[str]:
    """The aliases of the adapter that stands before it, else all there are."""
    from registry.completion import aliases

    given = context.params.get("ref") or context.params.get("name")
    name = None if given is None else str(given).replace(":", "@").partition("@")[0]
    return (aliases(settings, name) if name else []) or aliases(settings, None)


def _bases(settings: Settings, _context: click.Context, _text: str) -> list[str]:
    from registry.completion import bases

    return bases(settings)


def _artifacts(settings: Settings, _context: click.Context, _text: str) -> list[str]:
    from registry.completion import artifacts

    return artifacts(settings)


def _methods(_settings: Settings, _context: click.Context, _text: str) -> Iterable[str]:
    from registry.completion import METHODS

    return METHODS


def _rules(_settings: Settings, _context: click.Context, _text: str) -> list[str]:
    from engine.compat.rules.table import RULES

    return [rule.id for rule in RULES]


def _types(_settings: Settings, _context: click.Context, _text: str) -> list[str]:
    from engine.format.configs.fields import FIELDS

    return sorted(name.lower() for name in FIELDS)


def _engines(_settings: Settings, _context: click.Context, text: str) -> list[str]:
    """Serving engines; after `@` the newest release that was read, after `:` the limits of the engine before it."""
    from engine.compat.engines.target import ENGINES

    head, colon, _ = text.lower().rpartition(":")
    for engine in ENGINES if colon else ():
        if head.partition(":")[0].partition("@")[0] in (engine.name, *engine.aliases):
            return [f"{head}:{limit.name}=" for limit in engine.limits if f":{limit.name}=" not in head]
    releases = [f"{engine.name}@{engine.newest}" for engine in ENGINES if engine.newest and "@" in text]
    return releases or [engine.name for engine in ENGINES]


def _checks(settings: Settings, _context: click.Context, text: str) -> list[str]:
    from registry.browse.filters import STATUSES
    from registry.completion import checked

    target, mark, _ = text.partition("=")
    return [f"{target}={status}" for status in STATUSES] if mark else [f"{one}=" for one in checked(settings)]


def _sorts(_settings: Settings, _context: click.Context, _text: str) -> list[str]:
    from registry.browse.filters import SORT_KEYS

    return [word for key in SORT_KEYS for word in (key, f"{key}:desc")] + ["metric:"]


SOURCES: dict[str, Source] = {
    "REF": _references,
    "REF-or-PATH": _references,
    "PATH-or-REF": _references,
    "REF|none": _references,
    "NAME@ALIAS": _references,
    "NAME": _names,
    "ALIAS": _aliases,
    "BASE": _bases,
    "ARTIFACT": _artifacts,
    "METHOD": _methods,
    "RULE": _rules,
    "TYPE": _types,
    "ENGINE": _engines,
    "ENGINE=STATUS": _checks,
    "KEY[:desc]": _sorts,
}
