"""The two factors of a module, made wider: by zeros up to a rank, or by another pair beside them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from engine.convert.rewrite.draft import refused
from engine.format.names.keys import parse_key

if TYPE_CHECKING:
    from engine.convert.rewrite.draft import Draft, Made
    from engine.format.facts import AdapterFacts, ModuleFacts

_WIDENING = {"F64": 3, "F32": 2, "BF16": 1, "F16": 1}
_SCALED_EXTRAS = frozenset({"lora_bias", "diag", "velora", "monteclora"})


@dataclass(frozen=True, slots=True)
class Pair:
    """A module's factors. `rank` is what the configuration calls it; A has `blocks` slices of `rank` / `groups` rows:
    one a group of a convolution, one an expert of a parameter.
    """

    module: ModuleFacts
    A: Made
    B: Made
    rank: int
    blocks: int
    groups: int

    def tensors(self) -> dict[str, Made]:
        """Both by name."""
        return {self.module.a_key: self.A, self.module.b_key: self.B}


def pair_of(draft: Draft, module: ModuleFacts) -> Pair:
    """The module's factors in the draft; refuses those whose ranks do not lie in equal slices."""
    A, B = draft.tensors[module.a_key], draft.tensors[module.b_key]
    rank = module.configured_rank or module.rank
    rows, columns = A.shape[0] if A.shape else 0, B.shape[1] if len(B.shape) > 1 else 0
    if module.kind == "parameter":
        blocks, groups = rows // rank, 1
        fits = rows == columns == rank * blocks
    else:
        blocks = groups = rows // columns if columns else 0
        fits = rows == rank == columns * groups
    if not fits or not blocks:
        raise refused(
            "factors",
            f"{module.name}: factors {list(A.shape)} and {list(B.shape)} are none of rank {rank}",
            where=module.name,
        )
    return Pair(module, A, B, rank, blocks, groups)


def padded(pair: Pair, rank: int) -> Pair:
    """The pair at a larger rank, zeros in the new places; the product stays."""
    if rank == pair.rank:
        return pair
    rows, columns = _widths(pair, rank)
    A = replace(pair.A, shape=(rows * pair.blocks, *pair.A.shape[1:]), blocks=pair.blocks)
    B = replace(pair.B, shape=(pair.B.shape[0], columns, *pair.B.shape[2:]), axis=1)
    return replace(pair, A=A, B=B, rank=rank)


def scaled(pair: Pair, factor: float) -> Pair:
    """The pair with `factor` times the product, in B."""
    if factor == 1:
        return pair
    parts = tuple(replace(part, factor=part.factor * factor) for part in pair.B.parts)
    return replace(pair, B=replace(pair.B, parts=parts))


def beside(pair: Pair, other: Pair) -> Pair:
    """The pair whose product is the sum of both; neither may be padded yet."""
    rank = pair.rank + other.rank
    rows, columns = _widths(pair, rank)
    A = replace(
        pair.A,
        dtype=wider(pair.A.dtype, other.A.dtype),
        shape=(rows * pair.blocks, *pair.A.shape[1:]),
        parts=(*pair.A.parts, *other.A.parts),
        blocks=pair.blocks,
    )
    B = replace(
        pair.B,
        dtype=wider(pair.B.dtype, other.B.dtype),
        shape=(pair.B.shape[0], columns, *pair.B.shape[2:]),
        parts=(*pair.B.parts, *other.B.parts),
        axis=1,
    )
    return replace(pair, A=A, B=B, rank=rank)


def wider(one: str, other: str) -> str:
    """The dtype that holds the numbers of both: F32 for the two halves."""
    if one == other:
        return one
    if one not in _WIDENING or other not in _WIDENING:
        raise refused("dtype", f"factors of {one} and {other} cannot lie in one tensor")
    return max((one, other), key=_WIDENING.__getitem__) if _WIDENING[one] != _WIDENING[other] else "F32"


def require_plain(facts: AdapterFacts, what: str) -> None:
    """Refuse, by name, adapters whose ΔW is not scaling·B·A, or that scale something besides with it."""
    lora = facts.config.lora
    if lora is None:
        raise refused(
            "type", f"peft_type: expected LORA to {what}, found {facts.config.peft_type!r:.80}", where="peft_type"
        )
    for key, on in (("use_bdlora", lora.use_bdlora is not None), ("use_qalora", lora.use_qalora)):
        if on:
            raise refused("shape", f"{key}: its factors are no matrices of the module's rank; cannot {what}", where=key)
    if len(lora.target_parameters or ()) > 1 and (lora.rank_pattern or lora.alpha_pattern):
        # tensors name the module alone, patterns its parameters: whose are whose depends on the base's code
        raise refused("parameters", f"target_parameters with patterns: cannot {what}", where="target_parameters")
    for module in facts.modules:
        for extra in module.extras:
            if parse_key(extra).role in _SCALED_EXTRAS:
                raise refused("extra", f"{extra}: depends on the module's rank or scaling; cannot {what}", where=extra)


def _widths(pair: Pair, rank: int) -> tuple[int, int]:
    """Rows of a slice of A, and columns of B, at a rank."""
    if rank % pair.groups:
        raise refused(
            "groups",
            f"{pair.module.name}: expected a rank that its {pair.groups} groups divide, found {rank}",
            where=pair.module.name,
        )
    rows = rank // pair.groups
    return rows, rows * (pair.blocks // pair.groups)
