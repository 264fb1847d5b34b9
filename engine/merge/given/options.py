"""What a merge may be told besides weights and rank."""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Literal

from engine.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """None is the method's own default, which stands in its row of the table and on its page.

    `density` is the share of elements kept, in (0, 1]; `trim` whether a share is counted over each module's ΔW or over
    all of a parent's; `rescale` whether what is kept is divided by the density; `elect` whether weights count when
    signs are elected, `majority_sign` whether magnitudes do; `scale` is the λ that multiplies the result; `seed`
    decides what is drawn at random.
    """

    density: float | None = None
    trim: Literal["tensor", "global"] | None = None
    rescale: Literal["density", "none"] | None = None
    elect: Literal["weighted", "unweighted"] | None = None
    majority_sign: Literal["total", "frequency"] | None = None
    scale: float | None = None
    seed: int | None = None

    def given(self) -> dict[str, object]:
        """Those that are not None, by name."""
        return {one.name: value for one in fields(self) if (value := getattr(self, one.name)) is not None}


CHOICES: Mapping[str, tuple[str, ...]] = {
    "trim": ("tensor", "global"),
    "rescale": ("density", "none"),
    "elect": ("weighted", "unweighted"),
    "majority_sign": ("total", "frequency"),
}
"""The words that an option may be."""


def complete(options: Options, defaults: Mapping[str, object], *, method: str) -> Options:
    """`options` with a method's defaults where they are None; `defaults` names all that the method takes.

    Raises OptionError for an option that it does not take, or a value outside its range.
    """
    for name, value in options.given().items():
        if name not in defaults:
            takes = ", ".join(map(_told, defaults)) or "none"
            raise OptionError(f"{method} takes no {_told(name)} (options it takes: {takes})")
        _check(name, value)
    given = {**defaults, **options.given()}
    for name in (name for name, value in given.items() if value is None):
        raise OptionError(f"{method} has no {_told(name)} of its own here: give one")
    return replace(options, **given)  # type: ignore[arg-type] # names and types are the table's


def _check(name: str, value: object) -> None:
    if name in CHOICES and value not in CHOICES[name]:
        raise OptionError(f"{_told(name)} {value!r}: expected {' or '.join(CHOICES[name])}")
    if name == "density" and not (isinstance(value, (int, float)) and 0 < value <= 1):
        raise OptionError(f"density {value}: expected a share in (0, 1]")
    if name == "scale" and not (isinstance(value, (int, float)) and abs(value) <= sys.float_info.max):
        raise OptionError(f"lambda {str(value)[:80]}: expected a finite number")
    if name == "seed" and not (isinstance(value, int) and 0 <= value < 2**64):
        raise OptionError(f"seed {value}: expected an integer from 0 to 2**64 - 1")


def _told(name: str) -> str:
    """The option's name as a person writes it."""
    return "lambda" if name == "scale" else name.replace("_", "-")
