"""Follows a pickle on paper: its stack and memo hold descriptions, nothing is imported and no tensor is made.

Every opcode does to the stack what torch's weights_only loader does, so that what is described here is what would be
loaded there; what that loader takes beyond a dictionary of tensors is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.convert.allowed import CALLABLE, NAMED, Ordered, storage
from engine.convert.opcodes import Global, Tape
from engine.convert.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.convert.allowed import Storage
    from engine.convert.opcodes import Instruction

MAX_STEPS = 2_000_000  # opcodes; a tensor takes about 36
MAX_STACK = 16_384  # values at once; torch's batches of 1,000 items hold 2,000

_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_NUMBERS_AND_TEXT = frozenset({"BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE"})
_MAKES: dict[str, Callable[[], Any]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_PUTS = frozenset({"BINPUT", "LONG_BINPUT"})
_GETS = frozenset({"BINGET", "LONG_BINGET"})
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def follow(tape: Tape, *, views: bool = False) -> tuple[Any, dict[str, Storage]]:
    """What the pickle on `tape` describes, and the storages it names by key; `views` as in `allowed.storage`.

    Raises Refusal with opcode, global and position. The tape then stands behind STOP.
    """
    program = _Program(views=views)
    for step in tape.instructions():
        try:
            program.do(step)
        except Refusal as refusal:
            raise program.placed(refusal, step) from None
        except (IndexError, KeyError):
            reason = f"opcode {step.opcode} takes what is not there"
            raise Refusal(reason, opcode=step.opcode, position=step.position) from None
    return program.result, program.storages


class _Program:
    """Stack, marks and memo of one pickle."""

    def __init__(self, *, views: bool) -> None:
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}
        self.views = views
        self.called: Global | None = None
        self.result: Any = None
        self.steps = 0

    def do(self, step: Instruction) -> None:
        opcode = step.opcode
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise Refusal(f"more than {MAX_STEPS:,} opcodes")
        if opcode in _PUTS:
            self.memo[step.argument] = self.stack[-1]
        elif opcode in _GETS:
            self.push(self.memo[step.argument])
        elif opcode in _NUMBERS_AND_TEXT:
            self.push(step.argument)
        elif opcode in _CONSTANTS:
            self.push(_CONSTANTS[opcode])
        elif opcode in _MAKES:
            self.push(_MAKES[opcode]())
        elif opcode in _TUPLES:
            self.push(tuple(self.pop(_TUPLES[opcode])))
        elif opcode == "GLOBAL":
            self.name(step.argument)
        elif opcode in _ACTIONS:
            _ACTIONS[opcode](self)

    def placed(self, refusal: Refusal, step: Instruction) -> Refusal:
        """The refusal with the opcode, the global and the byte it is about."""
        called = self.called if step.opcode == "REDUCE" else None
        name = refusal.spot.get("name") or (str(called) if called else None)
        subject = f"opcode {step.opcode}" + (f" of {name}" if name else "")
        return Refusal(f"{subject}: {refusal.reason}", opcode=step.opcode, name=name, position=step.position)

    def push(self, value: Any) -> None:
        if len(self.stack) + len(self.marks) >= MAX_STACK:
            raise Refusal(f"more than {MAX_STACK:,} values at once")
        self.stack.append(value)

    def pop(self, count: int) -> list[Any]:
        if count > len(self.stack):
            raise IndexError
        taken = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return taken

    def name(self, wanted: Global) -> None:
        if wanted in CALLABLE:
            self.push(wanted)
        elif wanted in NAMED:
            self.push(NAMED[wanted])
        else:
            raise Refusal("adapter weights need no such name", name=str(wanted))

    def mark(self) -> None:
        if len(self.marks) >= MAX_STACK:
            raise Refusal(f"more than {MAX_STACK:,} marks at once")
        self.marks.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self.marks.pop()
        return items

    def make_tuple(self) -> None:
        items = tuple(self.since_mark())
        self.push(items)

    def append(self) -> None:
        self.extend(self.pop(1))

    def appends(self) -> None:
        self.extend(self.since_mark())

    def extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise Refusal("appends to something that is no list")
        self.stack[-1].extend(items)

    def set_item(self) -> None:
        self.assign(self.pop(2))

    def set_items(self) -> None:
        self.assign(self.since_mark())

    def assign(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise Refusal("sets items of something that is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str):
                raise Refusal(f"a dictionary with a key of type {type(key).__name__}, expected text")
            if key in target:
                raise Refusal(f"the key {key[:80]!r} stands twice in a dictionary")
            target[key] = value

    def reduce(self) -> None:
        function, arguments = self.pop(2)
        self.called = function if isinstance(function, Global) else None
        if self.called is None or not isinstance(arguments, tuple):
            raise Refusal("calls something that is no function")
        count, describe = CALLABLE[self.called]
        if len(arguments) != count:
            raise Refusal(f"{len(arguments)} arguments, expected {count}")
        self.push(describe(arguments))

    def build(self) -> None:
        state = self.pop(1)[0]
        if not isinstance(self.stack[-1], Ordered) or not isinstance(state, dict) or state.keys() - {"_metadata"}:
            raise Refusal("sets the state of something other than a module's dictionary")

    def load(self) -> None:
        found = storage(self.pop(1)[0], views=self.views)
        known = self.storages.setdefault(found.key, found)
        if known != found:
            raise Refusal(f"storage {found.key} is described in two ways")
        self.push(found)

    def stop(self) -> None:
        (self.result,) = self.pop(1)
        if self.stack or self.marks:
            raise Refusal("values are left over at the end")


_ACTIONS: dict[str, Callable[[_Program], None]] = {
    "MARK": _Program.mark,
    "TUPLE": _Program.make_tuple,
    "APPEND": _Program.append,
    "APPENDS": _Program.appends,
    "SETITEM": _Program.set_item,
    "SETITEMS": _Program.set_items,
    "REDUCE": _Program.reduce,
    "BUILD": _Program.build,
    "BINPERSID": _Program.load,
    "STOP": _Program.stop,
}
