"""Stored text made fit for the lines of a report: one line, nothing that a reader might obey."""

from __future__ import annotations

import re

LONGEST = 4000
_MARKDOWN = str.maketrans({char: f"\\{char}" for char in "\\`*_{}[]<>()#+!|~&"})
_MENTION = re.compile(r"(?<![0-9A-Za-z])@")


def one_line(text: str) -> str:
    """Printable and on one line: every other character as an escape; cut after 4,000 characters."""
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]}… ({len(text)} characters)"
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def markdown(text: str) -> str:
    """The text itself in a Markdown table or paragraph: no markup, no HTML, nobody mentioned."""
    return _MENTION.sub("@\u200b", one_line(text).translate(_MARKDOWN))
