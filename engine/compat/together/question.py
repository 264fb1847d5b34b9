"""What may be asked of several adapters: `merge[:METHOD]`, `hotswap`, `batch`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from engine.errors import OptionError

Kind = Literal["merge", "hotswap", "batch"]

KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Question:
    """One question; `method` is a merge method's name, None where any may be meant."""

    kind: Kind
    method: str | None = None

    def __str__(self) -> str:
        return self.kind if self.method is None else f"{self.kind}:{self.method}"


def parse_question(text: str) -> Question:
    """The question that a person wrote; raises OptionError for any other text, and for a method that is unknown."""
    kind, colon, method = text.partition(":")
    for known in KINDS:
        if kind == known and (not colon or (known == "merge" and method)):
            return Question(known, _known_method(method) if colon else None)
    raise OptionError(f"--together {text!r:.80}: expected merge, merge:METHOD, hotswap or batch")


def _known_method(name: str) -> str:
    from engine.compat.together.methods import ALIASES, METHODS

    method = ALIASES.get(name, name)
    if method not in METHODS:
        raise OptionError(f"merge method {name!r:.80}: expected one of {', '.join(METHODS)}")
    return method
