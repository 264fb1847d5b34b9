"""Which names an adapter can have. They are compared whole, never by a part of them."""

from __future__ import annotations

from engine.errors import OptionError

BASE = "__base__"
"""The name that stands for the base model alone, among the names of a batch."""
LONGEST = 256


def is_text(name: object) -> bool:
    """Whether it can be a name at all."""
    return isinstance(name, str)


def check_name(name: object) -> str:
    """The name as it came: any printable text of 1 to 256 characters without space at its ends, except `__base__`.

    Dots, slashes and `@` are fine, and so are names that begin like another. Raises OptionError.
    """
    if not isinstance(name, str):
        raise OptionError(f"adapter name: expected text, found {name!r:.80}")
    if name == BASE:
        raise OptionError(f"adapter name {BASE!r} stands for the base model; choose another")
    if not name or len(name) > LONGEST or not name.isprintable() or name != name.strip():
        raise OptionError(
            f"adapter name {name[:80]!r}: expected 1 to {LONGEST} printable characters without space at its ends"
        )
    return name
