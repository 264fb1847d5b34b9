"""How parents are combined: with their digests and weights, all that determines a merge's result."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from registry.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

OPTIONS = ("density", "trim", "rescale", "elect", "majority_sign", "lambda", "seed")
"""What a method may be told; each method takes some of them, and the engine says which."""

_SCALARS = ("rank", "energy", "budget", "dtype", "semantics", "other")
_NUMBERS = ("energy", "density", "lambda")
_INTEGERS = ("rank", "budget", "seed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Combination:
    """`method` by name; at most one of `rank`, `energy` (a share), `budget` (bytes); none is its default.

    `options` hold those of OPTIONS that are given. The engine judges all values.
    """

    method: str = "svd"
    rank: int | Literal["max"] | None = None
    energy: float | None = None
    budget: int | None = None
    dtype: str | None = None
    semantics: Literal["exact", "peft"] = "exact"
    other: Literal["average", "first", "refuse"] = "refuse"
    options: Mapping[str, Any] = field(default_factory=dict)

    def parameters(self) -> dict[str, Any]:
        """A plain object that `from_parameters` reads again."""
        return {**{name: getattr(self, name) for name in _SCALARS}, **self.options}


def from_parameters(method: str, said: Mapping[str, Any]) -> Combination:
    """The combination of a stored recipe, or of one that a person wrote; UsageError names a parameter it does not know.

    What is not said, or null, has its default.
    """
    unknown = sorted(said.keys() - {*_SCALARS, *OPTIONS})
    if unknown:
        known = ", ".join((*_SCALARS, *OPTIONS))
        raise UsageError(f"{unknown[0]!r} is no parameter of a merge: expected {known}")
    given = {name: value for name, value in said.items() if value is not None}
    for name, value in given.items():
        _check_kind(name, value)
    return Combination(
        method=method,
        **{name: given[name] for name in _SCALARS if name in given},
        options={name: given[name] for name in OPTIONS if name in given},
    )


def _check_kind(name: str, value: Any) -> None:
    if name == "rank" and value == "max":
        return
    if name in _NUMBERS:
        expected, fits = "a number", isinstance(value, (int, float)) and not isinstance(value, bool)
    elif name in _INTEGERS:
        expected, fits = "a whole number", isinstance(value, int) and not isinstance(value, bool)
    else:
        expected, fits = "a word", isinstance(value, str)
    if not fits:
        raise UsageError(f"{name}: expected {expected}, found {value!r}")
