"""How every tensor of the result is stored: plain in a dtype, or packed by bitsandbytes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from engine.materialize.encodings import int8, scales
from engine.materialize.stored.packed import FOUR_BITS, INT8
from engine.materialize.stored.place import PLAIN, Stored, part_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.materialize.stored.place import Place

BLOCK = 64
"""Numbers per scale: bitsandbytes' default, and the only one that transformers has."""
_GIVEN = {"F64": "F32", "F32": "F32", "F16": "F16"}


@dataclass(frozen=True, slots=True)
class Form:
    """A weight as it is to be stored: `stored` still has no places, `parts` maps roles to dtype and shape."""

    stored: Stored
    parts: Mapping[str, tuple[str, tuple[int, ...]]]
    turned: bool = False

    def described(self, name: str) -> list[tuple[str, str, tuple[int, ...]]]:
        """Name, dtype and shape of each tensor that holds the weight of that name."""
        return [(part_name(name, role), dtype, shape) for role, (dtype, shape) in self.parts.items()]

    def names(self, name: str) -> dict[str, str]:
        """Of these tensors, by role."""
        return {role: part_name(name, role) for role in self.parts}

    def placed(self, name: str, places: Mapping[str, Place]) -> Stored:
        """The weight at its places, by the names of its tensors."""
        return replace(self.stored, parts={role: places[part] for role, part in self.names(name).items()})


def plain_form(source: Stored, dtype: str, *, turned: bool = False) -> Form:
    """`source` in a dtype of its own."""
    shape = source.shape[::-1] if turned else source.shape
    return Form(Stored(PLAIN, shape, {}, source.fold), {"": (dtype, shape)}, turned)


def packed_form(source: Stored, kind: str, dtype: str, *, nested: bool, turned: bool = False) -> Form:
    """`source`, two-dimensional, packed as `kind`; `nested` scales are quantised as well (4 bits only)."""
    shape = source.shape[::-1] if turned else source.shape
    stored = Stored(kind, shape, {}, dtype=_GIVEN.get(dtype, "BF16"), blocksize=0 if kind == INT8 else BLOCK)
    return Form(stored, int8.parts(stored) if kind == INT8 else scales.parts(stored, nested=nested), turned)


def same_form(source: Stored, *, changed: bool) -> Form:
    """As `source` is packed itself. A changed one may need room for another text beside its scales."""
    if changed and source.encoding in FOUR_BITS:
        parts = scales.parts(source, nested="nested_absmax" in source.parts)
        own = source.parts[""]
        return Form(replace(source, parts={}), {**parts, "": (own.dtype, own.shape)})
    held = {role: (place.dtype, place.shape) for role, place in source.parts.items()}
    return Form(replace(source, parts={}), held)
