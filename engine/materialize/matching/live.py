"""The model that transformers builds of a base, without its numbers: what it ties, and how stored tensors become its
parameters where it has other names for them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from engine.errors import BaseError
from engine.format.names.canonical import canonical
from engine.materialize.matching.seat import Piece, Seat
from engine.model.skeleton import model_from_config

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from engine.materialize.matching.frame import Frame

_EXPERT = re.compile(r"\.experts\.(\d{1,9})\.")
_STACK = ("MergeModulelist",)
_FUSED = ("MergeModulelist", "Concatenate")


class Live:
    """A base's model on the meta device. A class because it asks transformers once and remembers."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self._model = model_from_config(frame.checkpoint.path / "config.json", frame.config)
        self._state: dict[str, Any] = self._model.state_dict()
        self._renamings, self._converters = _conversions(self._model)

    def twins(self) -> dict[str, str]:
        """Parameters that share another's numbers, with that other: the model's own names."""
        return dict(getattr(self._model, "all_tied_weights_keys", None) or {})

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of every tensor that the model stores, by its own name."""
        return {name: tuple(one.shape) for name, one in self._state.items()}

    def parts_by_config(self) -> bool:
        """Whether `tie_word_embeddings: false` makes them parameters of their own; T5 ties whatever that says."""
        settings = self._model.config
        return not type(settings).from_dict({**settings.to_dict(), "tie_word_embeddings": False}).tie_word_embeddings

    def registered(self, module: str) -> tuple[str, ...]:
        """The names of a module's own parameters, in their order; none for a module that is not there."""
        found = self._module(module)
        return () if found is None else tuple(name for name, _ in found.named_parameters(recurse=False))

    def is_transposed(self, module: str) -> bool:
        """Whether the module keeps its experts as (experts, in, out)."""
        return bool(getattr(self._module(module), "is_transposed", False))

    def is_beside(self, path: str) -> bool:
        """Whether a parameter is of what the model has beside its body, such as a head."""
        prefix = self._model.base_model_prefix
        return bool(prefix) and not path.startswith(f"{prefix}.")

    def stored_name(self, name: str) -> str:
        """What the model's class calls a stored tensor: with the prefix of its body, or without it, as that has it."""
        target, prefix = self.renamed(name)[0], f"{self._model.base_model_prefix}."
        bare = name.removeprefix(prefix)
        named = prefix + bare if target.startswith(prefix) else bare
        return named if self.renamed(named)[0] == target else name

    def _module(self, path: str) -> Any:
        wanted = canonical(path)
        return next((module for name, module in self._model.named_modules() if canonical(name) == wanted), None)

    def seats(self) -> dict[str, Seat]:
        """Every parameter that stored tensors become, by its canonical path; none for a change that is not known here
        (a permutation for other rotary embeddings).
        """
        found: dict[str, Seat] = {}
        groups: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
        for name, stored in self._frame.tensors.items():
            live, pattern = self.renamed(name)
            if pattern is None:
                found[canonical(live)] = Seat(canonical(live), stored.shape, (Piece(name),), packed=bool(stored.dtype))
            else:
                groups[live].append((name, pattern))
        for live, members in groups.items():
            for seat in self._converted(live, members):
                found[seat.path] = seat
        return found

    def renamed(self, name: str) -> tuple[str, str | None]:
        """What the model calls a stored tensor, and the pattern of the converter that takes it, if one does."""
        from transformers.core_model_loading import rename_source_key

        return rename_source_key(name, self._renamings, self._converters, self._model.base_model_prefix, self._state)

    def member(self, path: str) -> tuple[str, int, int, int] | None:
        """Of an expert's own weight that the model has fused with others: the model's parameter, the expert, and which
        part of that expert's rows it is, of how many.
        """
        live, pattern = self.renamed(path)
        converter = self._converter(pattern)
        number = _EXPERT.search(path)
        if converter is None or number is None or _kinds(converter) not in (_STACK, _FUSED):
            return None
        patterns = converter.source_patterns
        return live, int(number[1]), patterns.index(pattern), len(patterns)

    def _converted(self, live: str, members: Sequence[tuple[str, str]]) -> Iterator[Seat]:
        """The parameters that a converter makes of its stored tensors."""
        converter = self._converter(members[0][1])
        kinds = _kinds(converter)
        shape = tuple(self._state[live].shape) if live in self._state else None
        packed = any(self._frame.tensors[name].dtype for name, _ in members)
        if kinds == ("Chunk",) and len(members) == 1:
            yield from self._chunks(live, members[0][0], converter.target_patterns)
        elif shape is None:
            return
        elif kinds == ("Transpose",):
            name = members[0][0]
            turned = self._frame.tensors[name].shape != shape
            yield Seat(canonical(live), shape, (Piece(name, turned=turned),), packed)
        elif kinds in (_STACK, _FUSED):
            yield Seat(canonical(live), shape, tuple(self._experts(members, converter.source_patterns)), packed)
        elif kinds == ("Concatenate",) and converter.operations[0].dim == 0:
            yield Seat(canonical(live), shape, tuple(self._rows(members, converter.source_patterns)), packed)

    def _experts(self, members: Iterable[tuple[str, str]], patterns: Sequence[str]) -> Iterator[Piece]:
        """One tensor per expert and pattern; a pattern's rows follow those of the patterns before it."""
        from transformers.core_model_loading import dot_natural_key

        ordered = {
            one: sorted((name for name, found in members if found == one), key=dot_natural_key) for one in patterns
        }
        first = 0
        for names in ordered.values():
            count = self._frame.tensors[names[0]].shape[0] if names else 0
            for expert, name in enumerate(names):
                yield Piece(name, expert=expert, rows=(first, count))
            first += count

    def _rows(self, members: Sequence[tuple[str, str]], patterns: Sequence[str]) -> Iterator[Piece]:
        first = 0
        for name, _ in sorted(members, key=lambda member: patterns.index(member[1])):
            count = self._frame.tensors[name].shape[0]
            yield Piece(name, rows=(first, count))
            first += count

    def _chunks(self, live: str, name: str, targets: Sequence[str]) -> Iterator[Seat]:
        """Equal runs of rows of one stored tensor, each a parameter."""
        shape = self._frame.tensors[name].shape
        count = shape[0] // len(targets)
        for place, target in enumerate(targets):
            path = canonical(live.replace(targets[0], target, 1))
            within = (place * count, count)
            packed = bool(self._frame.tensors[name].dtype)
            yield Seat(path, (count, *shape[1:]), (Piece(name, within=within),), packed)

    def _converter(self, pattern: str | None) -> Any:
        return next((one for one in self._converters if pattern in one.source_patterns), None)


def _kinds(converter: Any) -> tuple[str, ...]:
    return tuple(type(operation).__name__ for operation in converter.operations)


def _conversions(model: Any) -> tuple[list[Any], list[Any]]:
    """Transformers' own renamings and converters for the model."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter

    found: Mapping[bool, list[Any]] = {True: [], False: []}
    for transform in get_model_conversion_mapping(model):
        found[isinstance(transform, WeightConverter)].append(transform)
    return found[False], found[True]


def live_of(frame: Frame) -> Live | None:
    """None where the installed transformers does not build the base's model."""
    try:
        return Live(frame)
    except BaseError:
        return None
