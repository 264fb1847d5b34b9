"""Rules over what the config's names select: patterns that overlap or match nothing, targets without tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.compat.rule import Hit, listed
from engine.errors import PatternError
from engine.format.configs.patterns import Matcher
from engine.format.names.keys import wrapped_path
from engine.format.names.modules import parameter_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from engine.compat.rule import Subject
    from engine.format.configs.settings import LoraSettings
    from engine.format.facts import ModuleFacts

# More pairs of a key and a module are not compared: a file made to cost time, no adapter.
_MOST_PAIRS = 1_000_000
_PATTERN_SIGNS = frozenset(r"\^$*+?{}[]|()")


def overlapping(subject: Subject) -> Iterator[Hit]:
    """Two keys for one module: the first in the file counts, and PEFT writes them sorted."""
    for section, patterns, matched in _sections(subject):
        told: set[tuple[str, str]] = set()
        for module, keys in matched.items():
            others = [key for key in keys[1:] if patterns[key] != patterns[keys[0]]]
            if not others or (keys[0], others[0]) in told or _confirmed(subject, section, module, keys):
                continue
            told.add((keys[0], others[0]))
            yield Hit(
                f"{section}: {keys[0]!r:.80} ({patterns[keys[0]]}) and {others[0]!r:.80} ({patterns[others[0]]}) both "
                f"match {module}; the first in the file counts, and PEFT sorts them when it saves",
                f"{section}.{keys[0]}",
            )


def unmatched(subject: Subject) -> Iterator[Hit]:
    for section, patterns, matched in _sections(subject):
        used = {key for keys in matched.values() for key in keys}
        if left := [key for key in patterns if key not in used]:
            yield Hit(f"{section}: keys that match no adapted module: {listed(left)}", f"{section}.{left[0]}")


def _sections(subject: Subject) -> Iterator[tuple[str, Mapping[str, float], dict[str, list[str]]]]:
    """Both patterns with the keys that match each name; none where that is too much to ask."""
    lora, modules = subject.facts.config.lora, subject.facts.modules
    if lora is None or not modules or not (lora.rank_pattern or lora.alpha_pattern):
        return
    names = [name for module in modules for name in _pattern_names(lora, module)]
    sections: dict[str, Mapping[str, float]] = {"rank_pattern": lora.rank_pattern, "alpha_pattern": lora.alpha_pattern}
    for section, patterns in sections.items():
        if not patterns or len(patterns) * len(names) > _MOST_PAIRS:
            continue
        matcher = Matcher(lora)
        try:
            yield section, patterns, {name: matcher.matching(patterns, name) for name in names}
        except PatternError:
            continue


def _pattern_names(lora: LoraSettings, module: ModuleFacts) -> list[str]:
    owner = wrapped_path(module.name)
    if module.kind != "parameter":
        return [owner]
    return [f"{owner}.{name.rpartition('.')[2]}" for name in parameter_names(owner, lora.target_parameters or ())]


def _confirmed(subject: Subject, section: str, name: str, keys: list[str]) -> bool:
    """Whether the tensors' rank says that the first key counts, and sorting keeps it first."""
    ranks = {module.name: module for module in subject.facts.modules}
    module = ranks.get(name)
    fits = module is not None and module.rank == module.configured_rank
    return section == "rank_pattern" and fits and keys == sorted(keys)


def unused_targets(subject: Subject) -> Iterator[Hit]:
    """Entries that PEFT took for no module: it says nothing as long as another entry matches."""
    lora = subject.facts.config.lora
    if lora is None or not subject.facts.modules or not isinstance(lora.target_modules, tuple):
        return
    present = [wrapped_path(name) for name in (*(one.name for one in subject.facts.modules), *subject.facts.incomplete)]
    leaves = {name.rpartition(".")[2] for name in present}
    left = [entry for entry in lora.target_modules if entry not in leaves]
    # most entries are leaves, so that the longer ends are seldom needed
    ends = _ends(present) if left else set[str]()
    if left := [entry for entry in left if entry not in ends]:
        signs = "; signs of regular expressions are taken as letters in a list"
        why = signs if any(_PATTERN_SIGNS & frozenset(entry) for entry in left) else ""
        yield Hit(f"target_modules: no tensor adapts {listed(left)}{why}", "target_modules")


def _ends(names: Iterable[str]) -> set[str]:
    """The names and what follows any of their dots."""
    return {".".join(parts[start:]) for parts in (name.split(".") for name in names) for start in range(len(parts))}
