"""The YAML block at the head of a model card. An author's text is added to, never written anew."""

from __future__ import annotations

import re
from itertools import accumulate
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_BLOCK = re.compile(r"\A\ufeff?---[ \t]*\r?\n(?P<yaml>.*?)(?P<end>^---[ \t]*(?:\r?\n|\Z))", re.DOTALL | re.MULTILINE)
_DEEPEST = 50
_LONGEST = 1 << 16  # a pure Python parser reads it, and a stranger wrote it


def with_fields(text: str, fields: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """A card whose front matter has these fields too, and the names of those that were added.

    What the author wrote stays as it is, byte for byte, comments and order too. Front matter that is no YAML mapping
    becomes part of the text below a new one.
    """
    block = _BLOCK.match(text)
    known = None if block is None else _mapping(block["yaml"])
    if block is None or known is None:
        body = text.removeprefix("\ufeff")
        return f"---\n{_yaml(fields)}---\n{body}", tuple(fields)
    missing = {key: value for key, value in fields.items() if known.get(key) in (None, "", [])}
    # A key that is there without a value would be there twice: that one is the author's to fill in.
    missing = {key: value for key, value in missing.items() if key not in known}
    if not missing:
        return text, ()
    ending = "\r\n" if block["end"].endswith("\r\n") else "\n"
    added = _yaml(missing).replace("\n", ending)
    return text[: block.start("end")] + added + text[block.start("end") :], tuple(missing)


def _mapping(text: str) -> dict[str, Any] | None:
    import yaml

    if len(text) > _LONGEST or _depth(text) > _DEEPEST:
        return None
    try:
        found = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError):
        return None
    if found is None:
        return {}
    return found if isinstance(found, dict) and all(isinstance(key, str) for key in found) else None


def _depth(text: str) -> int:
    """How deep brackets nest, strings not told apart: the parser's time grows with its square."""
    steps = (1 if character in "[{" else -1 for character in text if character in "[]{}")
    return max(accumulate(steps), default=0)


def _yaml(fields: Mapping[str, Any]) -> str:
    import yaml

    text: str = yaml.safe_dump(dict(fields), sort_keys=False, allow_unicode=True, width=1000)
    return text
