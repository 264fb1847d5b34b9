"""Looks at the values of an adapter's tensors: NaN, infinity, all-zero factors, the norm of every ΔW.

numpy is imported on first use. Tensors are read, not mapped: a file that shrinks meanwhile gives an error, no crash.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TypeVar

from engine.errors import HeaderError
from engine.format.header import open_regular
from engine.format.keys import parse_key
from engine.format.norms import delta_norm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from engine.format.facts import AdapterFacts, ModuleFacts
    from engine.format.tensors import Header, TensorInfo

T = TypeVar("T")
R = TypeVar("R")

BLOCK = 2**20  # bytes looked at together, so that the second look finds them in the cache
FACTOR_LIMIT = 2**30  # a larger factor is looked at, but its norm is not computed

_WHOLE_NUMBERS = {"BOOL", "U8", "I8", "I16", "U16", "I32", "U32", "I64", "U64"}
_EXPONENTS = {"F16": 0x7C00, "BF16": 0x7F80, "F32": 0x7F800000, "F64": 0x7FF0000000000000}
"""The bits of positive infinity: whatever is larger, the sign set aside, is infinite or no number."""
_WORDS = {1: "u1", 2: "u2", 4: "u4", 8: "u8"}


@dataclass(frozen=True, slots=True)
class ValueFacts:
    """What the values of an adapter are like.

    `nonfinite` counts NaN and infinite elements per tensor that has any; `zero` names the tensors with elements that
    are all zero; `norms` holds ‖ΔW‖_F with the scaling per module, None where it is not defined by the two factors
    alone or a factor is not finite; `unscanned` names the tensors of a dtype that is not looked into (8-bit floats,
    complex numbers).
    """

    nonfinite: Mapping[str, int]
    zero: tuple[str, ...]
    norms: Mapping[str, float | None]
    unscanned: tuple[str, ...]


def scan_values(facts: AdapterFacts, *, threads: int = 1) -> ValueFacts:
    """Reads every tensor of the adapter once, and the factors once more for their norms.

    Raises HeaderError where the file is no longer the one whose header `facts` holds.
    """
    header = facts.header
    scannable = [info for info in header.tensors.values() if info.dtype in _WHOLE_NUMBERS | _EXPONENTS.keys()]
    looks = _shared(facts, scannable, lambda file, info: (info.name, *_look(file, info)), threads)
    nonfinite = {name: bad for name, bad, _ in looks if bad}
    sound = [one for one in facts.modules if not nonfinite.keys() & {one.a_key, one.b_key}]
    norms: dict[str, float | None] = dict.fromkeys((one.name for one in facts.modules), None)
    norms.update(_shared(facts, sound, lambda file, module: (module.name, _norm(file, facts, module)), threads))
    unscanned = sorted(header.tensors.keys() - {info.name for info in scannable})
    return ValueFacts(nonfinite, tuple(sorted(name for name, _, zero in looks if zero)), norms, tuple(unscanned))


def _shared(facts: AdapterFacts, items: Sequence[T], look: Callable[[TensorFile, T], R], threads: int) -> list[R]:
    """`look` at every item, the items dealt out to threads that each open the file for themselves."""

    def work(part: Sequence[T]) -> list[R]:
        with TensorFile(facts.weights, facts.header) as file:
            return [look(file, item) for item in part]

    if threads == 1 or len(items) < threads:
        return work(items)
    with ThreadPoolExecutor(threads) as pool:
        parts = pool.map(work, [items[start::threads] for start in range(threads)])
        return [found for part in parts for found in part]


class TensorFile:
    """The open file of a header's tensors; refuses to go on where the file's size has changed."""

    def __init__(self, path: Path, header: Header) -> None:
        self._path = path
        self._header = header
        self._descriptor = open_regular(path)
        self._buffer = bytearray()

    def __enter__(self) -> Self:
        """Checks the size, so that a replaced file is noticed before its bytes are believed."""
        if os.fstat(self._descriptor).st_size != self._header.file_size:
            os.close(self._descriptor)
            raise HeaderError(self._path, "changed", "the file's size changed after its header was read")
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the file."""
        os.close(self._descriptor)

    def blocks(self, info: TensorInfo, block: int = BLOCK) -> Iterator[memoryview]:
        """The tensor's bytes in blocks of at most `block`; each is overwritten by the next."""
        for start in range(info.start, info.end, block):
            yield self._read(start, min(block, info.end - start))

    def whole(self, info: TensorInfo) -> memoryview:
        """All bytes of the tensor; overwritten by the next read."""
        return self._read(info.start, info.size)

    def _read(self, start: int, size: int) -> memoryview:
        if len(self._buffer) < size:
            self._buffer = bytearray(size)
        view = memoryview(self._buffer)[:size]
        done = 0
        while done < size:
            count = os.preadv(self._descriptor, [view[done:]], self._header.data_offset + start + done)
            if count == 0:
                raise HeaderError(self._path, "changed", "the file became shorter after its header was read")
            done += count
        return view


def _look(file: TensorFile, info: TensorInfo) -> tuple[int, bool]:
    """How many elements are not finite, and whether there are elements and all are zero.

    Works on the bits: seen as unsigned and as signed integers, the two maxima bound the negative and the positive
    numbers, so a block without infinity costs two passes and no memory.
    """
    import numpy as np

    word = np.dtype("<" + _WORDS[info.size // info.count]) if info.count else np.dtype("u1")
    infinity = _EXPONENTS.get(info.dtype)
    sign = 1 << (8 * word.itemsize - 1)
    bad = 0
    zero = info.count > 0
    for block in file.blocks(info):
        bits = np.frombuffer(block, word)
        largest = int(bits.max())
        positive = int(bits.view(word.str.replace("u", "i")).max())
        if infinity is None:
            zero = zero and largest == 0
            continue
        zero = zero and largest in (0, sign) and positive <= 0
        if positive >= infinity or largest >= sign | infinity:
            bad += int(np.count_nonzero((bits & word.type(sign - 1)) >= word.type(infinity)))
    return bad, zero


def _norm(file: TensorFile, facts: AdapterFacts, module: ModuleFacts) -> float | None:
    a, b = facts.header.tensors[module.a_key], facts.header.tensors[module.b_key]
    lora = facts.config.lora
    if lora is None or lora.use_qalora or lora.use_bdlora is not None or max(a.size, b.size) > FACTOR_LIMIT:
        return None
    if any(parse_key(name).role == "diag" for name in module.extras):
        return None
    return delta_norm(module, a, b, file.whole)
