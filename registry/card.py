"""The model card: what the front matter of a README.md says, read within bounds and without building its objects.

A YAML document can be made to expand without end (merge keys, aliases), so only its events are looked at: the scalars
under a few top-level keys. The keys are the Hub's: https://huggingface.co/docs/hub/model-cards
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from registry.errors import UsageError
from registry.provenance import parse_licence

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

CARD = "README.md"
_LONGEST = 1 << 20
_MOST_EVENTS = 200_000
_KEYS = ("license", "license_name", "license_link")
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})


@dataclass(frozen=True, slots=True)
class Card:
    """What a card says of its licence: the identifier, where the text lies, and why it could not be read."""

    licence: str | None = None
    link: str | None = None
    problem: str | None = None


def read_card(folder: Path) -> Card:
    """The card of a folder of staged files; empty where there is none or it says nothing."""
    try:
        with (folder / CARD).open("rb") as stream:
            head = stream.read(_LONGEST)
    except FileNotFoundError:
        return Card()
    return card_of(head)


def card_of(content: bytes) -> Card:
    """The card in some bytes, of which at most the first megabyte is looked at."""
    text = content[:_LONGEST].decode("utf-8-sig", "replace")
    block = _front_matter(text)
    if block is None:
        return Card()
    try:
        said = _scalars(block)
    except _UnreadableError as problem:
        return Card(problem=str(problem))
    names = [name.strip() for name in said.get("license", ()) if name.strip()]
    if [name.lower() for name in names] == ["other"] and said.get("license_name"):
        names = [said["license_name"][0]]  # the Hub's way to name a licence that it has no identifier for
    link = next(iter(said.get("license_link", ())), None)
    try:
        return Card(parse_licence(" and ".join(names)) if names else None, link)
    except UsageError as problem:
        return Card(problem=str(problem))


class _UnreadableError(Exception):
    """Front matter that is no YAML mapping."""


def _front_matter(text: str) -> str | None:
    """What stands between a first line `---` and the next such line."""
    lines = text.splitlines()
    if not lines or lines[0].strip() != "---":
        return None
    for end, line in enumerate(lines[1:], start=1):
        if line.strip() == "---":
            return "\n".join(lines[1:end])
    return None


def _scalars(block: str) -> dict[str, Sequence[str]]:
    """The scalars under the keys of interest: one, or the entries of a list. The last of two equal keys counts."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # twenty times as fast, where PyYAML was built with it
    try:
        events = islice(yaml.parse(block, Loader=loader), _MOST_EVENTS)
        return {key: values for key, values in _top_level(events) if key in _KEYS}
    except (yaml.YAMLError, ValueError) as error:
        place = getattr(error, "problem_mark", None)
        where = f", line {place.line + 2}" if place is not None else ""
        raise _UnreadableError(f"front matter is not YAML{where}") from None


def _top_level(events: Iterator[Any]) -> Iterator[tuple[str, list[str]]]:
    """Keys of the outermost mapping, each with its scalar or the scalars of its list; deeper ones are passed over.

    An alias stands for nothing here, so nothing can be expanded.
    """
    depth, listed = 0, False
    key: list[str] | None = None  # None while a key is awaited
    held: list[str] = []
    for event in events:
        kind = type(event).__name__
        if kind in ("MappingStartEvent", "SequenceStartEvent"):
            depth += 1
            listed = depth == 2 and kind == "SequenceStartEvent"
        elif kind in ("MappingEndEvent", "SequenceEndEvent"):
            depth -= 1
        elif kind == "ScalarEvent" and (depth == 1 or (depth == 2 and listed)):
            held += [] if event.style is None and event.value in _NULLS else [str(event.value)]
        elif kind != "AliasEvent":
            continue
        if depth != 1 or (kind == "MappingStartEvent" and key is None and not held):
            continue
        if key is None:
            key = held
        else:
            yield " ".join(key), held
            key = None
        held = []
