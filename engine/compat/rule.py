"""The row type of the rule table, what a rule looks at, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from engine.compat.finding import Severity
    from engine.format.facts import AdapterFacts, BaseFacts
    from engine.format.numbers.values import ValueFacts

Needs = Literal["config", "tensors", "values", "base"]


@dataclass(frozen=True, slots=True)
class Licensing:
    """The licences that an adapter and its base name, and why the adapter's could not be read where it could not."""

    licence: str | None
    base: str | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Subject:
    """All that is known of the adapter under check.

    `values` and `base` are None where they were not read or not given. `base_known` says whether the catalog knows the
    base; None where nobody was asked. `files` are the names in the adapter's folder. `base_name` is what the base was
    looked up by, None for the name in the config. `licensing` is None where nobody asked for licences.
    """

    facts: AdapterFacts
    values: ValueFacts | None = None
    base: BaseFacts | None = None
    base_known: bool | None = None
    files: tuple[str, ...] = ()
    base_name: str | None = None
    licensing: Licensing | None = None

    def without_values(self) -> Subject:
        """The same adapter before anybody looked into its tensors."""
        return self if self.values is None else replace(self, values=None)

    @property
    def raw(self) -> Mapping[str, Any]:
        """The config as it was written, every key."""
        return self.facts.config.raw


@dataclass(frozen=True, slots=True)
class Hit:
    """One place where a rule applies; rule id and severity come from the row."""

    message: str
    where: str | None = None
    fix: str | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """One row: `summary` states what is wrong when it fires, `needs` what must be there for it to run."""

    id: str
    severity: Severity
    summary: str
    needs: Needs
    function: Callable[[Subject], Iterable[Hit]]


def nested_items(section: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, str, Any]]:
    """Walk every key of a JSON object at any depth: (dotted place, key, value). No recursion, so depth cannot hurt."""
    stack: list[tuple[str, Any]] = [(place, section)]
    while stack:
        at, value = stack.pop()
        if isinstance(value, dict):
            for key, inner in value.items():
                inside = f"{at}.{key}" if at else str(key)
                yield inside, str(key), inner
                stack.append((inside, inner))
        elif isinstance(value, list):
            stack.extend((f"{at}[{index}]", inner) for index, inner in enumerate(value))


def strings(value: object) -> tuple[str, ...]:
    """Give the strings in a config value that is one string or a list of them; nothing for anything else."""
    if isinstance(value, str):
        return (value,)
    return tuple(entry for entry in value if isinstance(entry, str)) if isinstance(value, (list, tuple)) else ()


def listed(names: Iterable[str], most: int = 3) -> str:
    """Join the first names for a message and count the rest."""
    found = list(names)
    rest = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(found[:most]) + rest


def size(shape: Iterable[int]) -> str:
    """Write a shape as messages show it: (8, 768)."""
    return "(" + ", ".join(map(str, shape)) + ")"
