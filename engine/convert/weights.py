"""What pickled adapter weights hold, found without loading them. Standard library alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from engine.convert.allowed import Described
from engine.convert.legacy import START, read_legacy
from engine.convert.opcodes import Tape
from engine.convert.program import follow
from engine.convert.refusal import Refusal
from engine.convert.ziplayer import PICKLE, read_members
from engine.errors import NotLoadableError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from engine.convert.allowed import Storage

MAX_FILE = 2**32 - 1  # bytes; torch's zip needs 64-bit sizes beyond
MAX_PICKLE = 32 * 2**20
MAX_GROWTH = 4  # tensors together against the file: tied ones are written once each
MAX_NAME = 4096

Layout = Literal["zip", "legacy"]


@dataclass(frozen=True, slots=True)
class PickledWeights:
    """Tensors by name; `starts` is the byte of the file at which each storage begins, by key."""

    layout: Layout
    tensors: Mapping[str, Described]
    starts: Mapping[str, int]

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.size for tensor in self.tensors.values())

    @property
    def tied(self) -> tuple[str, ...]:
        """The tensors whose storage another one uses too."""
        uses = Counter(tensor.storage.key for tensor in self.tensors.values() if tensor.size)
        return tuple(name for name, one in self.tensors.items() if one.size and uses[one.storage.key] > 1)

    @property
    def scattered(self) -> tuple[str, ...]:
        """The tensors whose elements do not lie in the order of their indices."""
        return tuple(name for name, tensor in self.tensors.items() if not tensor.contiguous)


def inspect(data: memoryview, path: Path | str) -> PickledWeights:
    """The tensors in the bytes of an adapter_model.bin; `path` is for messages. Nothing is imported, opened or run.

    Raises NotLoadableError for everything but a flat dictionary of plain tensors as torch.save writes it.
    """
    try:
        return _inspect(data)
    except Refusal as refusal:
        raise NotLoadableError(path, refusal.reason, **refusal.spot) from None


def _inspect(data: memoryview) -> PickledWeights:
    if len(data) > MAX_FILE:
        raise Refusal(f"{len(data):,} bytes, at most {MAX_FILE:,} are taken")
    if bytes(data[:2]) == b"PK":
        return _from_zip(data)
    if bytes(data[: len(START)]) == START:
        result, _, starts = read_legacy(data, MAX_PICKLE)
        return _described("legacy", result, starts, len(data))
    raise Refusal("neither the zip nor the older layout that torch.save writes")


def _from_zip(data: memoryview) -> PickledWeights:
    members = read_members(data)
    pickle = members[PICKLE]
    if pickle.size > MAX_PICKLE:
        raise Refusal(f"{pickle.size:,} bytes of pickle, at most {MAX_PICKLE:,} are taken", part=PICKLE)
    result, storages = _one_pickle(data[pickle.start : pickle.start + pickle.size])
    found = {name.removeprefix("data/"): member for name, member in members.items() if name.startswith("data/")}
    if found.keys() != storages.keys():
        strange = min(found.keys() ^ storages.keys())
        raise Refusal(f"storage {strange} is named by the pickle or held by the zip, not both")
    for key, held in storages.items():
        _check_size(held, found[key].size)
    return _described("zip", result, {key: member.start for key, member in found.items()}, len(data))


def _one_pickle(data: memoryview) -> tuple[Any, dict[str, Storage]]:
    tape = Tape(data)
    try:
        found = follow(tape)
    except Refusal as refusal:
        refusal.spot["part"] = PICKLE
        raise
    if tape.position != len(data):
        raise Refusal("more than one pickle", position=tape.position, part=PICKLE)
    return found


def _check_size(held: Storage, size: int) -> None:
    if held.size != size:
        raise Refusal(f"storage {held.key} of {size:,} bytes, the pickle says {held.size:,}")


def _described(layout: Layout, result: Any, starts: Mapping[str, int], file_size: int) -> PickledWeights:
    if not isinstance(result, dict):
        raise Refusal(f"{_word(result)}, expected a dictionary of tensors")
    if not result:
        raise Refusal("an empty dictionary, expected one of tensors")
    for name, value in result.items():
        if not isinstance(value, Described):
            raise Refusal(
                f"{name[:80]!r} is {_word(value)}, expected a tensor: only flat dictionaries of them are taken"
            )
        if name == "__metadata__" or len(name) > MAX_NAME:
            raise Refusal(f"a tensor cannot be called {name[:80]!r} in a safetensors file")
    weights = PickledWeights(layout, result, starts)
    if weights.size > MAX_GROWTH * file_size:
        raise Refusal(f"tensors of {weights.size:,} bytes in a file of {file_size:,}")
    return weights


def _word(value: Any) -> str:
    if isinstance(value, dict):
        return "a dictionary"
    return _WORDS.get(type(value), "something else")


_WORDS = {
    Described: "a tensor",
    list: "a list",
    tuple: "a tuple",
    str: "text",
    int: "a number",
    bool: "a truth value",
    type(None): "None",
}
