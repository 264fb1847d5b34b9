"""Reads a pickle's opcodes; one that is not among the few that torch writes is refused before its argument is read."""

from __future__ import annotations

import pickletools
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

from engine.convert.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_LINE = 256  # bytes of a module's or a global's name
MAX_LONG = 16  # bytes of an integer; the magic number of the older layout has 10

_PROTOCOL = 2
_LINES = frozenset({"GLOBAL", "INST"})  # opcodes that name a global in two lines of text


class Global(NamedTuple):
    """What a pickle asks to import."""

    module: str
    name: str

    def __str__(self) -> str:
        """As Python writes it."""
        return f"{self.module}.{self.name}"


class Instruction(NamedTuple):
    """An opcode by pickletools' name, its argument, and the byte it stands at."""

    opcode: str
    argument: Any
    position: int


class Tape:
    """The bytes of one pickle and how far they were read. A class because it holds that position."""

    def __init__(self, data: memoryview, start: int = 0) -> None:
        self._data = data
        self.position = start

    def instructions(self) -> Iterator[Instruction]:
        """Every opcode up to and with STOP; the first must be PROTO 2. Raises Refusal."""
        start = self.position
        while True:
            position = self.position
            code = self.take(1)[0]
            if code not in _ALLOWED:
                raise self._refusal(code, position)
            name, read = _ALLOWED[code]
            argument = read(self)
            if (name == "PROTO") != (position == start):
                raise Refusal(f"opcode {name} where a pickle of torch has none", opcode=name, position=position)
            if name == "PROTO" and argument != _PROTOCOL:
                reason = f"opcode PROTO announces protocol {argument}, torch reads protocol {_PROTOCOL} alone"
                raise Refusal(reason, opcode=name, position=position)
            yield Instruction(name, argument, position)
            if name == "STOP":
                return

    def take(self, count: int) -> bytes:
        """The next bytes; Refusal where there are fewer."""
        end = self.position + count
        if end > len(self._data):
            raise Refusal(f"ends early: {count} more bytes announced", position=self.position)
        taken = bytes(self._data[self.position : end])
        self.position = end
        return taken

    def line(self) -> str:
        """ASCII text up to the next line feed, which is read too."""
        near = bytes(self._data[self.position : self.position + MAX_LINE])
        length = near.find(b"\n")
        if length < 0 or not near[:length].isascii():
            raise Refusal("a name that is no short line of ASCII", position=self.position)
        self.position += length + 1
        return near[:length].decode("ascii")

    def _refusal(self, code: int, position: int) -> Refusal:
        opcode = _NAMES.get(code, f"0x{code:02x}")
        name = str(_global(self)) if opcode in _LINES else None
        reason = f"opcode {opcode}" + (f" names {name}" if name else "") + ", which no adapter's weights need"
        return Refusal(reason, opcode=opcode, name=name, position=position)


def _nothing(_tape: Tape) -> None:
    return None


def _number(form: str) -> Callable[[Tape], int]:
    size = struct.calcsize(form)

    def read(tape: Tape) -> int:
        (value,) = struct.unpack(form, tape.take(size))
        return int(value)

    return read


def _long(tape: Tape) -> int:
    size = tape.take(1)[0]
    if size > MAX_LONG:
        raise Refusal(f"opcode LONG1 with an integer of {size} bytes", opcode="LONG1", position=tape.position - 2)
    return int.from_bytes(tape.take(size), "little", signed=True)


def _text(tape: Tape) -> str:
    start = tape.position - 1
    data = tape.take(int.from_bytes(tape.take(4), "little"))
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise Refusal("opcode BINUNICODE with text that is no UTF-8", opcode="BINUNICODE", position=start) from None


def _global(tape: Tape) -> Global:
    return Global(tape.line(), tape.line())


_BYTE = _number("<B")
_WORD = _number("<I")
_READERS: dict[str, Callable[[Tape], Any]] = {
    "PROTO": _BYTE,
    "STOP": _nothing,
    "MARK": _nothing,
    "EMPTY_DICT": _nothing,
    "EMPTY_LIST": _nothing,
    "EMPTY_TUPLE": _nothing,
    "TUPLE": _nothing,
    "TUPLE1": _nothing,
    "TUPLE2": _nothing,
    "TUPLE3": _nothing,
    "NONE": _nothing,
    "NEWTRUE": _nothing,
    "NEWFALSE": _nothing,
    "BININT": _number("<i"),
    "BININT1": _BYTE,
    "BININT2": _number("<H"),
    "LONG1": _long,
    "BINUNICODE": _text,
    "BINPUT": _BYTE,
    "LONG_BINPUT": _WORD,
    "BINGET": _BYTE,
    "LONG_BINGET": _WORD,
    "APPEND": _nothing,
    "APPENDS": _nothing,
    "SETITEM": _nothing,
    "SETITEMS": _nothing,
    "GLOBAL": _global,
    "REDUCE": _nothing,
    "BUILD": _nothing,
    "BINPERSID": _nothing,
}
"""Every opcode in what torch.save writes of a dictionary of tensors; torch's own loader reads them the same way."""

_NAMES = {ord(op.code): op.name for op in pickletools.opcodes}
_ALLOWED = {ord(op.code): (op.name, _READERS[op.name]) for op in pickletools.opcodes if op.name in _READERS}
