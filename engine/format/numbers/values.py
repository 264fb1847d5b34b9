"""Looks at the values of an adapter's tensors: NaN, infinity, all-zero factors, the norm of every ΔW, their digest.

numpy is imported on first use.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial
from math import inf
from threading import Thread
from typing import TYPE_CHECKING, NamedTuple

from engine.format.files.digest import combined
from engine.format.files.tensorfile import BLOCK, TensorFile
from engine.format.names.keys import parse_key
from engine.format.numbers.norms import FactorPlan, delta_norm, factor_plans, gram

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from engine.format.facts import AdapterFacts, ModuleFacts
    from engine.format.files.tensors import TensorInfo

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
    complex numbers); `tensors_digest` is that of engine.format.files.digest.
    """

    nonfinite: Mapping[str, int]
    zero: tuple[str, ...]
    norms: Mapping[str, float | None]
    unscanned: tuple[str, ...]
    tensors_digest: str


class _Seen(NamedTuple):
    """One tensor: its sha256, how many elements are not finite, whether all are zero, and its Gram matrices, which
    count only where all are finite.
    """

    sha256: str
    nonfinite: int
    zero: bool
    gram: NDArray[np.float64] | None


def scan_values(facts: AdapterFacts, *, threads: int = 1, digest: bool = True) -> ValueFacts:
    """Reads every tensor of the adapter once. Without `digest` nothing is hashed, and tensors_digest is empty.

    Raises HeaderError where the file is no longer the one whose header `facts` holds.
    """
    header = facts.header
    plans = factor_plans([module for module in facts.modules if _plain(facts, module)], header)
    seen = _see_all(facts, plans, threads, digest=digest)
    nonfinite = {name: found.nonfinite for name, found in seen.items() if found.nonfinite}
    return ValueFacts(
        nonfinite=nonfinite,
        zero=tuple(sorted(name for name, found in seen.items() if found.zero)),
        norms={
            module.name: None
            if nonfinite.keys() & {module.a_key, module.b_key}
            else delta_norm(module, seen[module.a_key].gram, seen[module.b_key].gram)
            for module in facts.modules
        },
        unscanned=tuple(sorted(name for name, info in header.tensors.items() if not _scannable(info))),
        tensors_digest=combined(header, {name: found.sha256 for name, found in seen.items()}) if digest else "",
    )


def _plain(facts: AdapterFacts, module: ModuleFacts) -> bool:
    """Whether ΔW is the product of two factors, neither of them too large to hold."""
    lora = facts.config.lora
    if lora is None or lora.use_qalora or lora.use_bdlora is not None:
        return False
    sizes = [facts.header.tensors[key].size for key in (module.a_key, module.b_key)]
    return max(sizes) <= FACTOR_LIMIT and not any(parse_key(name).role == "diag" for name in module.extras)


def _see_all(facts: AdapterFacts, plans: Mapping[str, FactorPlan], threads: int, *, digest: bool) -> dict[str, _Seen]:
    """Every tensor, dealt out to threads that each open the file for themselves."""

    def work(part: list[TensorInfo]) -> dict[str, _Seen]:
        with TensorFile(facts.weights, facts.header) as file:
            return {info.name: _see(file, info, plans.get(info.name), hashed=digest) for info in part}

    infos = list(facts.header.tensors.values())
    if threads == 1 or len(infos) < threads:
        return work(infos)
    workers = [_Worker(partial(work, infos[start::threads])) for start in range(threads)]
    found: dict[str, _Seen] = {}
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for worker in workers:
        found.update(worker.result())
    return found


class _Worker(Thread):
    """A thread that gives back what it found, or raises what it met; an executor would have `logging` imported."""

    def __init__(self, work: Callable[[], dict[str, _Seen]]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self._found: dict[str, _Seen] = {}
        self._met: BaseException | None = None

    def run(self) -> None:
        try:
            self._found = self._work()
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            self._met = error

    def result(self) -> dict[str, _Seen]:
        """After `join`."""
        if self._met is not None:
            raise self._met
        return self._found


def _see(file: TensorFile, info: TensorInfo, plan: FactorPlan | None, *, hashed: bool) -> _Seen:
    """One tensor, read once: a factor whole, anything else in blocks."""
    whole = None if plan is None else file.whole(info)
    product = None if plan is None or whole is None else gram(plan, info, whole)
    digest = hashlib.sha256()
    look = None if not _scannable(info) or _sound(product) else _Look(info)
    for block in _blocks(file, info, whole) if hashed or look is not None else ():
        if hashed:
            digest.update(block)
        if look is not None:
            look.at(block)
    return _Seen(digest.hexdigest(), look.bad if look else 0, look.zero if look else False, product)


def _sound(product: NDArray[np.float64] | None) -> bool:
    """Whether a factor's Gram matrices tell that its numbers are finite and not all zero: every square is in a trace,
    where nothing takes an infinity or a NaN away again. Squares may overflow or vanish, so False tells nothing.
    """
    return product is not None and all(0 < float(one.trace()) < inf for one in product)


def _blocks(file: TensorFile, info: TensorInfo, whole: memoryview | None) -> Iterator[memoryview]:
    return file.blocks(info) if whole is None else _slices(whole)


def _slices(content: memoryview) -> Iterator[memoryview]:
    for start in range(0, len(content), BLOCK):
        yield content[start : start + BLOCK]


def _scannable(info: TensorInfo) -> bool:
    return info.dtype in _WHOLE_NUMBERS or info.dtype in _EXPONENTS


class _Look:
    """What a tensor's blocks have shown so far.

    Works on the bits: seen as unsigned and as signed integers, the two maxima bound the negative and the positive
    numbers, so a block without infinity costs two passes and no memory.
    """

    def __init__(self, info: TensorInfo) -> None:
        import numpy as np

        self._word = np.dtype("<" + _WORDS[info.size // info.count]) if info.count else np.dtype("u1")
        self._infinity = _EXPONENTS.get(info.dtype)
        self._sign = 1 << (8 * self._word.itemsize - 1)
        self.bad = 0
        self.zero = info.count > 0

    def at(self, block: memoryview) -> None:
        """Look at the next bytes."""
        import numpy as np

        bits = np.frombuffer(block, self._word)
        largest = int(bits.max())
        if self._infinity is None:
            self.zero = self.zero and largest == 0
            return
        positive = int(bits.view(self._word.str.replace("u", "i")).max())
        self.zero = self.zero and largest in (0, self._sign) and positive <= 0
        if positive >= self._infinity or largest >= self._sign | self._infinity:
            magnitude = bits & self._word.type(self._sign - 1)
            self.bad += int(np.count_nonzero(magnitude >= self._word.type(self._infinity)))
