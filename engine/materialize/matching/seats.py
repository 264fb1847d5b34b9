"""Where a parameter, as an adapter calls it, lies among the stored tensors of the result."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from engine.compat.layers import INPUT_NAMES
from engine.format.base import config_facts
from engine.format.names.canonical import canonical, ends_with_any, is_tied_name, unwrapped
from engine.format.names.renamed import RENAMED_TYPES
from engine.materialize.matching.live import live_of
from engine.materialize.matching.same import same_numbers
from engine.materialize.matching.seat import Piece, Seat
from engine.materialize.stored.place import PLAIN

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.materialize.matching.frame import Frame
    from engine.materialize.matching.live import Live
    from engine.materialize.stored.place import Stored

_WRITERS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
_HEAD = "lm_head.weight"
TURNED_EXPERTS = frozenset({"gpt_oss", "openai_privacy_filter", "aria", "aria_text"})
"""Families whose experts are (experts, in, out): their modules say `is_transposed`."""


class Seats:
    """Seats by parameter path. A class because it remembers what transformers says of a base, asked only at need."""

    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        self._known: dict[str, Seat | None] = {}

    def of(self, path: str) -> Seat | None:
        """The seat of a parameter, None where the base has no such one."""
        if path not in self._known:
            self._known[path] = self._found(path)
        return self._known[path]

    def _found(self, path: str) -> Seat | None:
        return self._renamed.get(canonical(path)) or self._stored(path) or self._member(path) or self._twin(path)

    def stored(self, name: str) -> Stored:
        """The weight of that name in the result; of a twin that the base leaves out, what it shares."""
        if name not in self.frame.tensors:
            name = self.twins[name]
        return self.frame.tensors[name]

    @cached_property
    def twins(self) -> Mapping[str, str]:
        """Parameters that share a stored tensor's numbers, with that tensor. One that is stored with other numbers
        shares nothing, whatever the config says.
        """
        live = self.live
        found = live.twins() if live is not None else self._guessed_twins()
        pairs = [(self._name(twin), self._name(source)) for twin, source in found.items()]
        return {twin: source for twin, source in pairs if source in self.frame.tensors and self._shares(twin, source)}

    @cached_property
    def has_in_proj(self) -> bool:
        """Whether the base has torch's attention, whose three projections are one parameter."""
        return any(path.endswith(".in_proj_weight") for path in (*self.frame.by_canonical, *self._renamed))

    @cached_property
    def live(self) -> Live | None:
        return live_of(self.frame)

    def registered(self, module: str) -> tuple[str, ...]:
        """The names of a module's own parameters in the order of the model, where transformers has the model."""
        return () if self.live is None else self.live.registered(module)

    def is_turned_stack(self, module: str) -> bool:
        """Whether the module's experts are (experts, in, out)."""
        types = self._types
        return bool(TURNED_EXPERTS & types) or (bool(RENAMED_TYPES & types) and self._is_transposed(module))

    @property
    def _types(self) -> frozenset[str]:
        """The family of the base, and of the text model in it."""
        inner = self.frame.config.get("text_config")
        sections = [self.frame.config, inner if isinstance(inner, dict) else {}]
        return frozenset(kind for section in sections if (kind := config_facts(section)["model_type"]))

    def _is_transposed(self, module: str) -> bool:
        return self.live is not None and self.live.is_transposed(module)

    @cached_property
    def _renamed(self) -> Mapping[str, Seat]:
        """Of a family whose stored names are not those of its modules."""
        renames = RENAMED_TYPES & self._types and self.live is not None
        return self.live.seats() if renames and self.live is not None else {}

    def _stored(self, path: str) -> Seat | None:
        names = self.frame.by_canonical
        for one in (canonical(path), unwrapped(path)):
            if one in names:
                stored = self.frame.tensors[names[one]]
                return Seat(one, stored.shape, (Piece(names[one]),), packed=bool(stored.dtype))
        return None

    def _member(self, path: str) -> Seat | None:
        """An expert of its own, in the tensor that has all of them."""
        found = self.live.member(unwrapped(path)) if self._renamed and self.live is not None else None
        if found is None:
            return None
        name, expert, place, count = found
        whole = self._renamed.get(canonical(name))
        if whole is None or len(whole.pieces) != 1 or not whole.pieces[0].is_whole or expert >= whole.shape[0]:
            return None
        rows = whole.shape[1] // count
        within = (expert * whole.shape[1] + place * rows, rows)
        return Seat(
            canonical(path), (rows, whole.shape[2]), (Piece(whole.pieces[0].name, within=within),), whole.packed
        )

    def _twin(self, path: str) -> Seat | None:
        """A tied parameter that the base does not store."""
        if not (is_tied_name(path) or ends_with_any(path, INPUT_NAMES)):
            return None
        for twin, source in self.twins.items():
            if canonical(twin) == canonical(path):
                stored = self.frame.tensors[source]
                return Seat(canonical(path), stored.shape, (Piece(twin),), packed=bool(stored.dtype))
        return None

    def _name(self, path: str) -> str:
        """The stored tensor of a parameter, or its own name where none is."""
        seat = self._renamed.get(canonical(path)) or self._stored(path)
        return path if seat is None else seat.pieces[0].name

    def _shares(self, twin: str, source: str) -> bool:
        pair = [self.frame.tensors.get(name) for name in (twin, source)]
        if pair[0] is None or pair[1] is None or not all(one is not None and one.encoding == PLAIN for one in pair):
            return True
        return same_numbers(pair[0].parts[""], pair[1].parts[""])

    def _guessed_twins(self) -> Mapping[str, str]:
        """Of a model that transformers does not know: the output is the input's table where the config does not deny it
        and no output is stored.
        """
        writes = (config_facts(self.frame.config)["architecture"] or "").endswith(_WRITERS)
        tables = [name for name in self.frame.tensors if ends_with_any(name, INPUT_NAMES)]
        if (
            self.frame.config.get("tie_word_embeddings") is False
            or not writes
            or not tables
            or _HEAD in self.frame.tensors
        ):
            return {}
        return {_HEAD: min(tables, key=len)}
