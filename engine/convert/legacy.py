"""Reads the layout that torch wrote before its zip: five pickles, then every storage behind its number of elements."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.convert.opcodes import Tape
from engine.convert.program import follow
from engine.convert.refusal import Refusal

if TYPE_CHECKING:
    from engine.convert.allowed import Storage

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
START = b"\x80\x02\x8a\x0a" + MAGIC.to_bytes(10, "little") + b"."
"""How such a file begins."""

_COUNT = 8  # bytes of the number of elements before a storage


def read_legacy(data: memoryview, pickles: int) -> tuple[Any, dict[str, Storage], dict[str, int]]:
    """What the file describes, its storages, and where the bytes of each begin; no pickle may end behind `pickles`.

    Raises Refusal for any other file than torch.save wrote, down to the last byte.
    """
    tape = Tape(data[:pickles])
    if _plain(tape) != MAGIC or _plain(tape) != PROTOCOL:
        raise Refusal("another protocol than torch's")
    system = _plain(tape)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise Refusal("numbers that are not stored little end first")
    result, storages = follow(tape, views=True)
    keys = _plain(tape)
    if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(storages):
        raise Refusal("storages other than those the pickle names", position=tape.position)
    starts = _starts(data, tape.position, [storages[str(key)] for key in keys])
    return result, storages, starts


def _plain(tape: Tape) -> Any:
    value, storages = follow(tape)
    if storages:
        raise Refusal("a storage where torch names none", position=tape.position)
    return value


def _starts(data: memoryview, position: int, ordered: list[Storage]) -> dict[str, int]:
    starts = {}
    for one in ordered:
        count = int.from_bytes(data[position : position + _COUNT], "little", signed=True)
        if position + _COUNT > len(data) or count != one.count:
            raise Refusal(f"storage {one.key} of another length than the pickle says", position=position)
        starts[one.key] = position + _COUNT
        position += _COUNT + one.size
        if position > len(data):
            raise Refusal(f"storage {one.key} is cut off", position=position - one.size)
    if position != len(data):
        raise Refusal(f"{len(data) - position} bytes behind the last storage", position=position)
    return starts
