"""PEFT's matching rules: which modules a LoRA configuration targets, and with which rank and alpha.

Stored regular expressions are untrusted. Each configuration gets `BUDGET` seconds of this thread's time for all its
expressions together before the next slow one is refused, and `MOST` seconds for however many quick ones; one is at most
`MAX_LENGTH` characters long and `MAX_UNROLLED` pieces with its counts written out.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

from engine.errors import PatternError
from engine.format.configs.settings import ALL_LINEAR
from engine.format.configs.suffixes import Suffixes, ends_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import regex

    from engine.format.configs.settings import LoraSettings

BUDGET = 0.2
MOST = 5.0
MAX_LENGTH = 10_000
MAX_UNROLLED = 100_000
_MOST_SETS = 256

Number = TypeVar("Number", int, float)

_PLAIN = re.compile(r"[A-Za-z0-9_.]+")
# an escape, a set (a first ] is part of it), a brace with what may be a count, or any character
_PIECE = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\{\d*(?:,\d*)?\}|.", re.DOTALL)

_SPECIAL_IN_SET = re.compile(r"\\.|[\[\]|&~]", re.DOTALL)
_SHORTEST = 0.001  # regex takes no timeout of 0


@dataclass(slots=True)
class Matcher:
    """The rules of one configuration, with its compiled expressions and the time that is left for them."""

    lora: LoraSettings
    _left: float = BUDGET
    _compiled: dict[str, regex.Pattern[str]] = field(default_factory=dict)
    _indexed: dict[str, Suffixes] = field(default_factory=dict)
    _sets: dict[str, frozenset[str]] = field(default_factory=dict)

    def names(self, module: str) -> bool:
        """Whether `target_modules` is given and selects the module; see `targets`."""
        return bool(self.lora.target_modules) and self.targets(module)

    def targets(self, module: str) -> bool:
        """Whether `target_modules` selects the module of that name (no `base_model.model.`).

        True for every module where the file leaves the choice to PEFT: no targets at all (a table per architecture) or
        `all-linear`. Raises PatternError.
        """
        lora = self.lora
        if self._excluded(module):
            return False
        if lora.target_modules is None:
            return lora.target_parameters is None
        if isinstance(lora.target_modules, str):
            return lora.target_modules.lower() == ALL_LINEAR or self._whole(lora.target_modules, module)
        if self._is_one("targets", module, lora.target_modules):
            return True
        return self._ends("targets", module, lora.target_modules) and self._layer_selected(module)

    def effective(self, module: str) -> tuple[int, float]:
        """Rank and alpha that the configuration gives the module: its first matching pattern, else `r`/`lora_alpha`."""
        lora = self.lora
        rank = self._first("rank", lora.rank_pattern, module, lora.r)
        return rank, self._first("alpha", lora.alpha_pattern, module, lora.lora_alpha)

    def matching(self, patterns: Iterable[str], module: str) -> list[str]:
        """Which keys of rank_pattern or alpha_pattern match the module, in their order; PEFT takes the first."""
        return [pattern for pattern in patterns if self._suffix(pattern, module)]

    def _first(self, kind: str, patterns: Mapping[str, Number], module: str, default: Number) -> Number:
        if "\n" in module:  # the dot of an expression stands for any character but this
            return next((value for pattern, value in patterns.items() if self._suffix(pattern, module)), default)
        index = self._indexed.get(kind)
        if index is None:
            index = self._indexed[kind] = Suffixes(patterns, self._suffix)
        pattern = index.first(module)
        return default if pattern is None else patterns[pattern]

    def _excluded(self, module: str) -> bool:
        excluded, saved = self.lora.exclude_modules, self.lora.modules_to_save
        if not excluded and not saved:
            return False
        if isinstance(excluded, str):
            if excluded and self._whole(excluded, module):
                return True
        elif excluded and (self._is_one("excluded", module, excluded) or self._ends("excluded", module, excluded)):
            return True
        return any(self._start(rf"(^|.*\.){name}($|\..*)", module) for name in saved or ())

    def _ends(self, kind: str, module: str, names: Iterable[str]) -> bool:
        return ends_in(module, self._set(kind, names))

    def _is_one(self, kind: str, module: str, names: Iterable[str]) -> bool:
        return module in self._set(kind, names)

    def _set(self, kind: str, names: Iterable[str]) -> frozenset[str]:
        found = self._sets.get(kind)
        if found is None:
            found = self._sets[kind] = _one_set(frozenset(names))
        return found

    def _layer_selected(self, module: str) -> bool:
        wanted = self.lora.layers_to_transform
        if wanted is None or wanted == ():
            return True
        index = self._layer_index(module)
        return index is not None and (index == wanted if isinstance(wanted, int) else index in wanted)

    def _layer_index(self, module: str) -> int | None:
        patterns = self.lora.layers_pattern
        if not patterns:
            found = self._search(r".*?\.[^.]*\.(?P<idx>\d+)\.", module)
            return None if found is None else int(found["idx"])
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            found = self._search(rf"(?:^|.*?\.){pattern}\.(?P<idx>\d+)\.", module)
            if found is not None:
                return int(found["idx"])
        return None

    def _suffix(self, pattern: str, module: str) -> bool:
        """PEFT's rule for rank_pattern and alpha_pattern keys: an expression for the end of the name, from a dot on."""
        if _PLAIN.fullmatch(pattern) and "\n" not in module:
            return _plain_suffix(pattern, module)
        return self._start(rf"(.*\.)?({pattern})$", module)

    def _whole(self, pattern: str, text: str) -> bool:
        return self._run(pattern, text, whole=True) is not None

    def _start(self, pattern: str, text: str) -> bool:
        return self._run(pattern, text, whole=False) is not None

    def _search(self, pattern: str, text: str) -> regex.Match[str] | None:
        return self._run(pattern, text, whole=False)

    def _run(self, pattern: str, text: str, *, whole: bool) -> regex.Match[str] | None:
        import regex  # noqa: F401 - before the clock starts: the first import takes longer than most expressions

        if self._left < BUDGET - MOST:
            raise PatternError(pattern, f"comes after expressions that needed more than {MOST:g} s together")
        started = time.thread_time()
        try:
            compiled = self._compiled.get(pattern)
            if compiled is None:
                compiled = self._compiled[pattern] = compile_bounded(pattern)
            return (compiled.fullmatch if whole else compiled.match)(text, timeout=max(self._left, _SHORTEST))
        except TimeoutError:
            pass
        finally:
            self._left -= time.thread_time() - started
        # the timeout counts wall time, the budget counts this thread's: a busy machine is no evil pattern
        if self._left > 0:
            return self._run(pattern, text, whole=whole)
        raise PatternError(pattern, f"needs more than {BUDGET:g} s")


@lru_cache(_MOST_SETS)
def _one_set(names: frozenset[str]) -> frozenset[str]:
    """The same object for equal sets, which are compared whole otherwise whenever a name is looked up with one."""
    return names


def effective(lora: LoraSettings, module: str) -> tuple[int, float]:
    """Rank and alpha of one module; for many modules of one configuration keep a `Matcher`. Raises PatternError."""
    return Matcher(lora).effective(module)


def is_targeted(lora: LoraSettings, module: str) -> bool:
    """Whether the configuration targets one module; see `Matcher.targets`."""
    return Matcher(lora).targets(module)


def _plain_suffix(pattern: str, module: str) -> bool:
    """`_suffix` for an expression of letters, digits, _ and the dot, which stands for any character."""
    start = len(module) - len(pattern)
    if start < 0 or (start > 0 and module[start - 1] != "."):
        return False
    return all(wanted in (".", found) for wanted, found in zip(pattern, module[start:], strict=True))


def compile_bounded(pattern: str) -> regex.Pattern[str]:
    """`pattern` as Python's `re` reads it, compiled for `regex`, which can be stopped.

    Raises PatternError where `re` refuses it, as PEFT does, and where it is too long or unrolls to too much.
    """
    import regex

    if len(pattern) > MAX_LENGTH:
        raise PatternError(pattern, f"{len(pattern)} characters long, at most {MAX_LENGTH} are allowed")
    pieces = _PIECE.findall(pattern)
    if _unrolled(pieces) > MAX_UNROLLED:
        raise PatternError(pattern, "its repetition counts multiply to too much")
    translated = "".join(map(_as_regex, pieces))
    try:
        verbose = re.compile(translated).flags & re.VERBOSE
        return regex.compile(pattern if verbose else translated, regex.V0)
    except (re.error, regex.error, RecursionError, OverflowError) as error:
        raise PatternError(pattern, f"not a regular expression: {error}") from None


def _unrolled(pieces: list[str]) -> int:
    """How many pieces remain when counted repetitions are written out, which is what `regex` does."""
    groups = [[0]]  # sizes of the items of each open group
    for piece in pieces:
        if piece == "(":
            groups.append([0])
        elif piece == ")" and len(groups) > 1:
            size = sum(groups.pop())
            groups[-1].append(size)
        elif piece[0] == "{" and len(piece) > 1:
            groups[-1][-1] *= max((int(count) for count in re.findall(r"\d+", piece)), default=1)
        else:
            groups[-1].append(1)
    return sum(map(sum, groups))


def _as_regex(piece: str) -> str:
    """A piece for the `regex` module, with what only `regex` reads as fuzzy counts or nested sets escaped."""
    if piece[0] == "[" and len(piece) > 1:
        opening = "[^" if piece[1] == "^" else "["
        return opening + _SPECIAL_IN_SET.sub(_escaped, piece[len(opening) : -1]) + "]"
    if piece == "{,}":
        return "*"
    return r"\{" + piece[1:] if piece in ("{", "{}") else piece


def _escaped(found: re.Match[str]) -> str:
    return found[0] if found[0][0] == "\\" else "\\" + found[0]
