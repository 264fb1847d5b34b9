"""The plan of a merge: everything decided and checked from headers and configs, before a tensor is read."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from engine.errors import OptionError, RefusedError
from engine.format.adapter import read_adapter
from engine.merge.copies import Copy, gather
from engine.merge.dtypes import parse_dtype, widest
from engine.merge.methods import METHODS
from engine.merge.refusals import refusal, refusals
from engine.merge.result_config import Adapted, result_config

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from engine.compat.finding import Finding
    from engine.format.facts import AdapterFacts, ModuleFacts
    from engine.merge.source import Source


@dataclass(frozen=True, slots=True)
class Piece:
    """One parent's factors of one module; `parent` is its place in `MergePlan.sources`."""

    parent: int
    module: ModuleFacts


@dataclass(frozen=True, slots=True)
class ModulePlan:
    """One module of the result, seen as `groups` independent sums of B (rows, r) times A (r, columns).

    `rank` is A's first dimension in the result; only grouped convolutions have more than one group.
    """

    name: str
    rank: int
    groups: int
    pieces: tuple[Piece, ...]
    a_shape: tuple[int, ...]
    b_shape: tuple[int, ...]

    @property
    def a_key(self) -> str:
        """The tensor name of A in the result, the prefix PEFT's own."""
        return _key(self.name, self.pieces[0].module.a_key, "A")

    @property
    def b_key(self) -> str:
        """The tensor name of B in the result."""
        return _key(self.name, self.pieces[0].module.b_key, "B")


@dataclass(frozen=True, slots=True)
class MergePlan:
    """A merge that will be carried out as it stands; `dtype` is safetensors' name of the result's."""

    method: str
    sources: tuple[Source, ...]
    parents: tuple[AdapterFacts, ...]
    dtype: str
    rank: int
    modules: tuple[ModulePlan, ...]
    copies: tuple[Copy, ...]
    config: dict[str, Any]


def plan(
    sources: Sequence[Source],
    *,
    method: str,
    rank: int | Literal["max"] | None = None,
    dtype: str | None = None,
) -> MergePlan:
    """Reads configs and headers of `sources` and decides the result.

    Raises OptionError for an unknown method or dtype, a rank below 1 or beside an exact method, no source, or a weight
    that is not finite; UnreadableError or PatternError for a folder that is no adapter; RefusedError, with every
    reason, for parents that cannot be merged.
    """
    _check_options(sources, method, rank)
    wanted = None if dtype is None else parse_dtype(dtype)
    parents = [read_adapter(source.path) for source in sources]
    findings = list(refusals(parents))
    copies, saved, problems = gather(parents)
    findings += problems
    findings += _contradictions(parents)
    if findings:
        raise RefusedError(findings)
    limit = None if METHODS[method].exact else _limit(rank, parents)
    modules = tuple(_module(name, pieces, limit) for name, pieces in sorted(_pieces(parents).items()))
    return MergePlan(
        method=method,
        sources=tuple(sources),
        parents=tuple(parents),
        dtype=wanted or widest(_dtypes(parents)),
        rank=max(module.rank for module in modules),
        modules=modules,
        copies=tuple(copies),
        config=result_config([facts.config for facts in parents], [Adapted(m.name, m.rank) for m in modules], saved),
    )


def _check_options(sources: Sequence[Source], method: str, rank: int | str | None) -> None:
    if method not in METHODS:
        raise OptionError(f"merge method {method!r}: expected one of {', '.join(METHODS)}")
    if not sources:
        raise OptionError("a merge needs at least one adapter")
    for source in sources:
        if not math.isfinite(source.weight):
            raise OptionError(f"weight {source.weight} of {source.path.name} is not a finite number")
    if isinstance(rank, int) and METHODS[method].exact:
        raise OptionError(f"{method} is exact and its rank is the sum of the parents'; use svd for rank {rank}")
    if rank is not None and rank != "max" and (not isinstance(rank, int) or rank < 1):
        raise OptionError(f"rank {rank}: expected 1 or more, or max")


def _limit(rank: int | Literal["max"] | None, parents: Sequence[AdapterFacts]) -> int:
    if rank == "max":
        return sys.maxsize
    return rank or max(module.rank for facts in parents for module in facts.modules)


def _dtypes(parents: Sequence[AdapterFacts]) -> Iterator[str]:
    for facts in parents:
        for module in facts.modules:
            yield facts.header.tensors[module.a_key].dtype
            yield facts.header.tensors[module.b_key].dtype


def _pieces(parents: Sequence[AdapterFacts]) -> dict[str, list[Piece]]:
    found: dict[str, list[Piece]] = {}
    for place, facts in enumerate(parents):
        for module in facts.modules:
            found.setdefault(module.name, []).append(Piece(place, module))
    return found


def _contradictions(parents: Sequence[AdapterFacts]) -> Iterator[Finding]:
    """Factors that do not multiply, and modules whose parents adapt weights of different shapes."""
    for name, pieces in _pieces(parents).items():
        broken = [piece.module for piece in pieces if not _fits(piece.module)]
        for module in broken:
            message = f"{name}: A {list(module.a_shape)} and B {list(module.b_shape)} do not multiply"
            yield refusal("merge-shapes", message, where=name)
        for module in (piece.module for piece in pieces if piece.module.configured_rank != piece.module.a_shape[0]):
            message = f"{name}: the config gives rank {module.configured_rank}, A is {list(module.a_shape)}"
            yield refusal("merge-shapes", message, where=name)
        if not broken and len({_shape(piece.module) for piece in pieces}) > 1:
            shapes = " and ".join(sorted({_in_words(piece.module) for piece in pieces}))
            yield refusal("merge-shapes", f"{name} has different shapes in the parents: {shapes}", where=name)


def _fits(module: ModuleFacts) -> bool:
    """Whether B's rank is A's, or for a grouped convolution divides it and the output channels evenly."""
    a, b = module.a_shape, module.b_shape
    if min(len(a), len(b), *a, *b) < 1 or len(a) < 2 or len(b) < 2 or math.prod(b[2:]) != 1:
        return False
    if a[0] == b[1]:
        return True
    return module.kind.startswith("conv") and a[0] % b[1] == 0 and b[0] % (a[0] // b[1]) == 0


def _shape(module: ModuleFacts) -> tuple[object, ...]:
    """All that must agree between parents: everything but the rank."""
    a, b = module.a_shape, module.b_shape
    return module.kind, a[1:], b[0], len(b), a[0] // b[1]


def _in_words(module: ModuleFacts) -> str:
    return f"{module.kind} A {list(module.a_shape)} B {list(module.b_shape)}"


def _module(name: str, pieces: Sequence[Piece], limit: int | None) -> ModulePlan:
    a, b = pieces[0].module.a_shape, pieces[0].module.b_shape
    groups = a[0] // b[1]
    rank = sum(piece.module.rank for piece in pieces)
    if limit is not None:
        # Of each group, so that every group keeps the same number of singular values: B's layout asks for it.
        each = min(rank // groups, b[0] // groups, math.prod(a[1:]), max(1, limit // groups))
        rank = each * groups
    return ModulePlan(name, rank, groups, tuple(pieces), (rank, *a[1:]), (b[0], rank // groups, *b[2:]))


def _key(name: str, original: str, letter: str) -> str:
    if "lora_embedding_" in original:
        return f"base_model.model.{name}.lora_embedding_{letter}"
    return f"base_model.model.{name}.lora_{letter}.weight"
