"""Two adapters module by module: which can be compared, and their factors as plain float64 blocks."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from engine.format.files.tensorfile import TensorFile
from engine.format.names.keys import parse_key
from engine.format.numbers.norms import STORED, as_floats
from engine.format.numbers.subspaces import Block, contrast
from engine.format.numbers.values import FACTOR_LIMIT

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from engine.format.facts import AdapterFacts, ModuleFacts
    from engine.format.numbers.subspaces import Contrast


@dataclass(frozen=True, slots=True)
class Compared:
    """A module that at least one side has; `contrast` None with the `reason` where it was not compared."""

    name: str
    left: ModuleFacts | None
    right: ModuleFacts | None
    contrast: Contrast | None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class _Layout:
    """How a module's two factors make `blocks` matrices of (out, rank) times (rank, in) each.

    Groups of a convolution split B by outputs and A by ranks; the experts of a parameter lie innermost in B.
    """

    blocks: int
    rank: int
    out: int
    inputs: int
    experts: bool


def compare_modules(left: AdapterFacts, right: AdapterFacts) -> Iterator[Compared]:
    """Every module of both adapters by name, the factors of one module in memory at a time.

    What is compared is ΔW = scaling·B·A, for an embedding its transpose. A module that only one side has is compared
    with zero. Raises HeaderError where a file changed since its header was read.
    """
    ours, theirs = ({module.name: module for module in side.modules} for side in (left, right))
    with ExitStack() as opened:
        files = [opened.enter_context(TensorFile(side.weights, side.header)) for side in (left, right)]
        for name in sorted(ours.keys() | theirs.keys()):
            yield _compare(name, (left, ours.get(name), files[0]), (right, theirs.get(name), files[1]))


_Side = tuple["AdapterFacts", "ModuleFacts | None", TensorFile]


def _compare(name: str, left: _Side, right: _Side) -> Compared:
    layouts: list[_Layout | None] = []
    for facts, module, _ in (left, right):
        layout = None if module is None else _layout(facts, module)
        if isinstance(layout, str):
            return Compared(name, left[1], right[1], None, layout)
        layouts.append(layout)
    one, other = layouts
    if one is not None and other is not None and _shape(one) != _shape(other):
        return Compared(name, left[1], right[1], None, "the shapes of ΔW differ")
    blocks = [_blocks(side, own, one or other) for side, own in zip((left, right), layouts, strict=True)]
    found = contrast(zip(*blocks, strict=True))
    return Compared(name, left[1], right[1], found, None if found else "values are not finite")


def _shape(layout: _Layout) -> tuple[int, int, int]:
    return layout.blocks, layout.out, layout.inputs


def _layout(facts: AdapterFacts, module: ModuleFacts) -> _Layout | str:
    """The layout, or in words why ΔW is not the product of these factors."""
    lora, header = facts.config.lora, facts.header
    a, b = header.tensors[module.a_key], header.tensors[module.b_key]
    if lora is not None and (lora.use_qalora or lora.use_bdlora is not None):
        return "QA-LoRA and BD-LoRA pool or block their factors"
    if any(parse_key(extra).role == "diag" for extra in module.extras):
        return "KaSA scales between its factors"
    if a.dtype not in STORED or b.dtype not in STORED:
        return f"dtype {b.dtype if a.dtype in STORED else a.dtype} is not read"
    if len(a.shape) < 2 or len(b.shape) < 2 or 0 in (*a.shape, *b.shape):
        return "a factor is empty or no matrix"
    if max(a.size, b.size) > FACTOR_LIMIT:
        return f"a factor is larger than {FACTOR_LIMIT} bytes"
    return _fitting(module) or f"factors {list(a.shape)} and {list(b.shape)} do not fit"


def _fitting(module: ModuleFacts) -> _Layout | None:
    a, b = module.a_shape, module.b_shape
    rows, columns, inputs = a[0], b[1], prod(a[1:])
    if module.kind == "parameter":
        rank = module.configured_rank or rows
        if len(b) != 2 or rows != columns or rows % rank:
            return None
        return _Layout(rows // rank, rank, b[0], inputs, experts=True)
    groups, rest = divmod(rows, columns)
    if rest or not groups or b[0] % groups or (groups > 1 and not module.kind.startswith("conv")):
        return None
    return _Layout(groups, columns, b[0] // groups, inputs, experts=False) if prod(b[2:]) == 1 else None


def _blocks(side: _Side, own: _Layout | None, layout: _Layout | None) -> Iterator[Block]:
    """The side's blocks; zeros of the other side's layout where it has no such module."""
    import numpy as np

    facts, module, file = side
    if own is None or module is None:
        if layout is not None:
            nothing = Block(np.zeros((layout.out, 0)), np.zeros((0, layout.inputs)), 1.0)
            yield from [nothing] * layout.blocks
        return
    A = _read(file, facts, module.a_key).reshape(own.blocks, own.rank, own.inputs)
    B = _read(file, facts, module.b_key)
    if own.experts:
        B = B.reshape(own.out, own.rank, own.blocks).transpose(2, 0, 1)  # (experts, out, rank)
    else:
        B = B.reshape(own.blocks, own.out, own.rank)
    for index in range(own.blocks):
        yield Block(B[index], A[index], module.scaling)


def _read(file: TensorFile, facts: AdapterFacts, name: str) -> NDArray[np.float64]:
    import numpy as np

    info = facts.header.tensors[name]
    stored = np.frombuffer(file.whole(info), STORED[info.dtype])
    floats: NDArray[np.float64] = np.array(as_floats(stored, np.zeros(2 * stored.size, np.uint16), wide=True))
    return floats
