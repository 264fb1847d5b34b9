"""What a rule over several adapters sees, and the row of a table of such rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from engine.compat.finding import Severity
    from engine.compat.rule import Hit
    from engine.compat.together.question import Question
    from engine.format.configs.settings import LoraSettings
    from engine.format.facts import AdapterFacts


@dataclass(frozen=True, slots=True)
class Lineage:
    """The base that an adapter is for, as far as it is known: by name, by content, or not at all."""

    name: str | None = None
    fingerprint: str | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """The adapters that meet, in the order given, and the base of each; their `path` is what messages call them.

    `one_base` says that the asker has named one base for all of them. `norms` are ‖ΔW‖ of each one's modules, empty
    where nobody knows them.
    """

    question: Question
    adapters: tuple[AdapterFacts, ...]
    bases: tuple[Lineage, ...]
    one_base: bool = False
    norms: tuple[Mapping[str, float | None], ...] = ()

    def loras(self) -> Iterator[tuple[AdapterFacts, LoraSettings]]:
        """The LoRA adapters among them with their settings."""
        for facts in self.adapters:
            if facts.config.lora is not None:
                yield facts, facts.config.lora


@dataclass(frozen=True, slots=True)
class GroupRule:
    """One row: `summary` states what is wrong when it fires. `function` is pure and gives one hit per place."""

    id: str
    severity: Severity
    summary: str
    function: Callable[[Group], Iterable[Hit]]


def name_of(facts: AdapterFacts) -> str:
    """How messages call an adapter."""
    return str(facts.path)


def values_in_words(found: Iterable[tuple[AdapterFacts, object]]) -> str:
    """Who has which value, for messages: `a False, b True`."""
    return ", ".join(f"{name_of(facts)} {_short(value)}" for facts, value in found)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
