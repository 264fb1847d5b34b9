"""Tensors of which an adapter has a full copy: modules_to_save, and tables that were resized or trained in full."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.compat.finding import Finding
from engine.compat.layers import INPUT_NAMES
from engine.format.files.dtypes import READABLE
from engine.format.names.canonical import OUTPUT_NAMES, ends_with_any
from engine.format.names.keys import WRAPPER, parse_key
from engine.materialize.matching.effect import Effect, place_of
from engine.materialize.matching.same import same_numbers
from engine.materialize.stored.place import PLAIN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.format.facts import AdapterFacts
    from engine.materialize.matching.seat import Seat
    from engine.materialize.matching.seats import Seats

ROLES = ("modules_to_save", "embedding")
_BETWEEN = (WRAPPER, "token_adapter")
_STRAY = ("modules_to_save", "original_module")
"""PEFT repeats the biases of a saved module under these names; its copy has them too."""


def copy_effects(facts: AdapterFacts, seats: Seats) -> Iterator[Effect | Finding]:
    """What takes the place of a tensor of the base, and what has none. Reads a table that only repeats the base's."""
    for name, path in copied(facts).items():
        role, module = facts.others[name], path.rpartition(".")[0]
        seat = seats.of(path)
        if seat is None:
            message = f"{path}: the base has no such tensor"
            yield Finding("base-module-absent", "error", message, where=name)
        elif (wrong := _misfit(facts, name, seat, seats)) is not None:
            yield wrong
        elif not _is_base(facts, name, role, seat, seats):
            # PEFT loads such a table over the base's own, whose twins follow; a saved module is one of its own.
            yield Effect(seat.path, module, copy=place_of(facts, name), spreads=role == "embedding")


def copied(facts: AdapterFacts) -> dict[str, str]:
    """The parameter that each full copy of an adapter is of, by the copy's name."""
    found = {}
    for name, role in facts.others.items():
        key = parse_key(name)
        parts = [part for part in key.module.split(".") if part not in _BETWEEN]
        if role in ROLES and not (parts and parts[-1] in _STRAY):
            found[name] = ".".join((*parts, key.leaf))
    return found


def is_table(path: str) -> bool:
    """Whether this is an input or output table of tokens, which may have another number of rows."""
    return ends_with_any(path, INPUT_NAMES) or ends_with_any(path, OUTPUT_NAMES)


def is_output_bias(path: str) -> bool:
    """Whether this is the bias of an output table, one number per token."""
    return path.endswith(".bias") and ends_with_any(f"{path.removesuffix('bias')}weight", OUTPUT_NAMES)


def _misfit(facts: AdapterFacts, name: str, seat: Seat, seats: Seats) -> Finding | None:
    found = facts.header.tensors[name]
    resized = (
        (is_table(seat.path) or is_output_bias(seat.path))
        and found.shape[1:] == seat.shape[1:]
        and len(found.shape) == len(seat.shape)
    )
    if found.shape != seat.shape and not resized:
        message = f"{name}: expected {list(seat.shape)}, found {list(found.shape)}"
        return Finding("base-shape", "error", message, where=name)
    stored = seats.stored(seat.pieces[0].name)
    if stored.numbers != found.dtype and not {found.dtype, stored.numbers} <= READABLE:
        wanted = "a floating dtype" if stored.numbers in READABLE else stored.numbers
        message = f"{name}: expected {wanted}, found {found.dtype}"
        return Finding("own-dtype", "error", message, where=name)
    return None


def _is_base(facts: AdapterFacts, name: str, role: str, seat: Seat, seats: Seats) -> bool:
    """Whether the file only repeats the base's numbers, as PEFT writes them for every targeted embedding."""
    stored = seats.stored(seat.pieces[0].name)
    if role != "embedding" or not seat.pieces[0].is_whole or stored.encoding != PLAIN:
        return False
    return same_numbers(place_of(facts, name), stored.parts[""])
