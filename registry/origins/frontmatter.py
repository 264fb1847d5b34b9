"""The YAML block at the head of a model card, read within bounds and without building its objects.

A stranger wrote it, and a YAML document can be made to expand without end (aliases, merge keys), so only its events are
looked at. Who reads a card and who adds to one see the same fields.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

LONGEST = 1 << 20
DEEPEST = 50
MOST_EVENTS = 200_000
_BLOCK = re.compile(r"\A\ufeff?---[ \t]*\r?\n(?P<yaml>.*?)(?P<end>^---[ \t]*(?:\r?\n|\Z))", re.DOTALL | re.MULTILINE)
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_KINDS = frozenset({"str", "int", "float", "bool", "null", "map", "seq", "timestamp", "set", "omap", "binary"})
_TAGS = frozenset({None, "!", *(f"tag:yaml.org,2002:{kind}" for kind in _KINDS)})


@dataclass(frozen=True, slots=True)
class FrontMatter:
    """The block of a text: where its closing marker starts and how that line ends, and what is in it.

    `fields` has the outermost keys, each with its scalar or the scalars of its list; what lies deeper, what is null and
    what an alias stands for is left out. The last of two equal keys counts. `problem` tells why there are no fields.
    """

    end: int
    newline: str
    fields: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    problem: str | None = None


def front_matter(text: str) -> FrontMatter | None:
    """What stands between a first line `---` and the next such line, None where there is no such block."""
    block = _BLOCK.match(text)
    if block is None:
        return None
    end, newline = block.start("end"), "\r\n" if block["end"].endswith("\r\n") else "\n"
    try:
        return FrontMatter(end, newline, _fields(block["yaml"]))
    except _UnreadableError as problem:
        return FrontMatter(end, newline, problem=f"front matter {problem}")


class _UnreadableError(Exception):
    """Front matter that is no YAML mapping, or none within the bounds."""


def _fields(block: str) -> dict[str, tuple[str, ...]]:
    import yaml

    if len(block) > LONGEST:
        raise _UnreadableError(f"is longer than {LONGEST} characters")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # twenty times as fast, where PyYAML was built with it
    nodes = _nodes(_bounded(yaml.parse(block, Loader=loader)))
    try:
        pairs = zip(nodes, nodes, strict=True)
        return {_text(key): tuple(text for text in value.texts if text is not None) for key, value in pairs}
    except (yaml.YAMLError, ValueError) as error:
        place = getattr(error, "problem_mark", None)
        where = "" if place is None else f", line {place.line + 2}"
        raise _UnreadableError(f"is not YAML{where}") from None


def _bounded(events: Iterable[Any]) -> Iterator[Any]:
    """The same events: of one document, not too many nor too deep, no foreign objects, each alias of something."""
    import yaml

    depth = documents = 0
    anchors = set()
    for number, event in enumerate(events):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        documents += isinstance(event, yaml.DocumentStartEvent)
        if number >= MOST_EVENTS or depth > DEEPEST:
            raise _UnreadableError(f"has more than {MOST_EVENTS} parts or is nested deeper than {DEEPEST}")
        if documents > 1:
            raise _UnreadableError("is more than one document")
        if isinstance(event, yaml.AliasEvent) and event.anchor not in anchors:
            raise _UnreadableError("has an alias of nothing")
        if getattr(event, "tag", None) not in _TAGS:
            raise _UnreadableError("has a tag of no plain YAML")
        anchors.add(getattr(event, "anchor", None))
        yield event


@dataclass(frozen=True, slots=True)
class _Node:
    """A key or value of the outermost mapping: its scalar, or those of its list; None for a null."""

    single: bool
    texts: list[str | None]


def _nodes(events: Iterable[Any]) -> Iterator[_Node]:
    """The keys and values of the outermost mapping by turns."""
    import yaml

    above: list[type] = []
    held: list[str | None] = []
    for event in events:
        if isinstance(event, yaml.CollectionStartEvent):
            above.append(type(event))
        elif isinstance(event, yaml.CollectionEndEvent):
            above.pop()
        elif isinstance(event, yaml.ScalarEvent) and above[1:] in ([], [yaml.SequenceStartEvent]):
            held.append(None if not event.style and event.value in _NULLS else event.value)
        elif not isinstance(event, yaml.NodeEvent):
            continue
        if above[:1] != [yaml.MappingStartEvent] and not isinstance(event, yaml.CollectionEndEvent):
            raise _UnreadableError("is not a mapping")
        if len(above) == 1 and not isinstance(event, yaml.MappingStartEvent):
            yield _Node(isinstance(event, yaml.ScalarEvent), held)
            held = []


def _text(key: _Node) -> str:
    """A key; one that is itself a list, a mapping or an alias stands for no field."""
    return (key.texts[0] or "") if key.single else ""
