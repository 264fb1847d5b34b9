"""What an adapter's tensors on one module do to its weight and its bias."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from engine.compat.finding import Finding
from engine.compat.layers import TRANSPOSED_TYPES
from engine.format.files.dtypes import READABLE
from engine.format.names.keys import parse_key
from engine.materialize.changes.dora import Dora
from engine.materialize.changes.lowrank import LowRank
from engine.materialize.changes.scale import Scale
from engine.materialize.changes.tokens import Tokens
from engine.materialize.changes.vectors import Added
from engine.materialize.matching.effect import Effect, place_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from engine.format.facts import AdapterFacts
    from engine.materialize.changes.change import Change
    from engine.materialize.matching.seat import Seat, Shape
    from engine.materialize.stored.place import Place
    from engine.model.fitting.claims import Claim

_TURNED_NAMES = frozenset({"c_attn", "c_proj", "c_fc", "q_attn"})
"""What models that are built from transformers' Conv1D call their Conv1Ds."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A module that an adapter acts on: the seats of its weight and bias (None: it has none), with `shape` what the
    weight has in the result.
    """

    path: str
    weight: Seat | None
    bias: Seat | None
    shape: Shape
    turned: bool

    @property
    def kernel(self) -> Shape:
        return self.shape[2:]

    @property
    def fan_out(self) -> int:
        return self.shape[1 if self.turned else 0]

    @property
    def fan_in(self) -> int:
        """Per group, of a convolution."""
        return self.shape[0 if self.turned else 1]


def is_turned(
    path: str, shape: Shape, widths: tuple[int | None, int | None], model_types: frozenset[str], *, stated: bool
) -> bool:
    """Whether a linear weight is stored (in, out): as its `widths` (in, out) say, None where an adapter does not tell;
    where both ways fit, as the model's families have it, or as `stated` in the adapter's config where none is known.
    """
    if len(shape) != 2:
        return False
    fan_in, fan_out = widths
    straight, turned = (fan_out in (None, out) and fan_in in (None, into) for out, into in (shape, shape[::-1]))
    if straight != turned:
        return turned
    if not model_types:
        return stated
    return not model_types.isdisjoint(TRANSPOSED_TYPES) and path.rpartition(".")[2] in _TURNED_NAMES


def expected(layer: Layer, claim: Claim, *, table: bool, groups: int) -> dict[str, Shape]:
    """The shape on disk of every tensor that an adapter may have on the layer, by role."""
    if len(layer.shape) < 2:
        return {"bias": layer.bias.shape} if layer.bias else {}
    rank, out, ones = claim.rank, layer.fan_out, (1,) * len(layer.kernel)
    if table:
        count, dim = layer.shape
        return {"A": (rank, count), "B": (dim, rank), "magnitude": (dim,), "rows": (len(claim.tokens), dim)}
    whole = layer.fan_in * groups
    found: dict[str, Shape] = {
        "A": (rank, whole, *layer.kernel),
        "B": (out, rank // groups, *ones),
        "E": (rank, 1),
        "lora_bias": (out,),
        "magnitude": (1, out, *ones) if ones else (out,),
        "l_in": (1, whole, *ones),
        "l_out": (1, out, *ones) if ones else (out, 1),
    }
    if ones and "E" in claim.tensors:
        found |= {"A": (rank, prod(layer.shape[1:])), "B": (out, rank)}
    if not ones:
        found["rows"] = (len(claim.tokens), layer.fan_in)
    return found | ({"bias": layer.bias.shape} if layer.bias else {})


class Worked:
    """One adapter's claim on one layer. A class because every step needs the same five things."""

    def __init__(self, facts: AdapterFacts, claim: Claim, layer: Layer, weight: float) -> None:
        self.facts = facts
        self.claim = claim
        self.layer = layer
        self.weight = weight
        self.shapes: Mapping[str, Shape] = {
            role: facts.header.tensors[name].shape for role, name in claim.tensors.items()
        }

    @property
    def is_table(self) -> bool:
        name = self.claim.tensors.get("A")
        return name is not None and parse_key(name).role == "embedding_A"

    @property
    def groups(self) -> int:
        """Of a convolution, as the width of A or of IA3's vector tells."""
        for role in ("A", "l_in"):
            shape = self.shapes.get(role, ())
            if self.layer.kernel and len(shape) == len(self.layer.shape) and shape[1] % self.layer.fan_in == 0:
                groups = max(shape[1] // self.layer.fan_in, 1)
                return groups if role == "l_in" or self.shapes["B"][1] * groups == self.claim.rank else 1
        return 1

    def misfits(self) -> Iterator[Finding]:
        """What is wrong with shapes, dtypes and roles, and what no weight of the base's can do."""
        wanted = expected(self.layer, self.claim, table=self.is_table, groups=self.groups)
        for role, name in self.claim.tensors.items():
            found = self.facts.header.tensors[name]
            if role in ("bias", "lora_bias") and self.layer.bias is None:
                message = f"{self.layer.path}: the adapter adds a bias and the module has none; leave it unmerged"
                yield Finding("merge-bias", "error", message, where=name)
            elif role not in wanted:
                message = f"{name}: a weight of {list(self.layer.shape)} takes no {role}, expected {', '.join(wanted)}"
                yield Finding("own-role", "error", message, where=name)
            elif found.shape != wanted[role]:
                message = f"{name}: expected {list(wanted[role])}, found {list(found.shape)}"
                yield Finding("base-shape", "error", message, where=name)
            if found.dtype not in READABLE:
                message = f"{name}: expected a floating dtype, found {found.dtype}"
                yield Finding("own-dtype", "error", message, where=name)
        if "A" in self.claim.tensors and self.groups > 1:
            message = (
                f"{self.layer.path}: ΔW crosses the {self.groups} groups of the convolution, so that no merged weight "
                "does the same; leave the adapter unmerged"
            )
            yield Finding("merge-convolution", "error", message, where=self.layer.path)
        if self.claim.tokens and max(self.claim.tokens) >= self.layer.shape[0]:
            message = f"{self.layer.path}: token {max(self.claim.tokens)}: the table has {self.layer.shape[0]} rows"
            yield Finding("token-absent", "error", message, where=self.layer.path)

    def effects(self) -> Iterator[Effect]:
        """In the order of a forward: replaced rows, DoRA or ΔW, biases, IA3."""
        weight, bias, path = self.layer.weight, self.layer.bias, self.layer.path
        if weight is not None:
            for change in self._weight():
                yield Effect(weight.path, path, change, spreads=isinstance(change, Tokens))
        if bias is None:
            return
        if "bias" in self.shapes:
            yield Effect(bias.path, path, copy=self._place("bias"), share=self.weight)
        if "lora_bias" in self.shapes:
            yield Effect(bias.path, path, Added(self._place("lora_bias"), self.claim.scaling * self.weight))
        if "l_out" in self.shapes:
            yield Effect(bias.path, path, Scale(self._place("l_out"), self.weight))

    def _weight(self) -> Iterator[Change]:
        if "rows" in self.shapes:
            yield Tokens(self._place("rows"), self.claim.tokens, self.weight)
        if "B" in self.shapes:
            yield self._moved()
        turned = self.layer.turned
        if "l_out" in self.shapes:
            yield Scale(self._place("l_out"), self.weight, columns=turned)
        if "l_in" in self.shapes:
            yield Scale(self._place("l_in"), self.weight, columns=not turned, groups=self.groups)

    def _moved(self) -> LowRank | Dora:
        E = self._place("E") if "E" in self.shapes else None
        whole = "magnitude" in self.shapes
        factor = self.claim.scaling * (1.0 if whole else self.weight)
        turned = self.layer.turned or self.is_table
        low_rank = LowRank(self._place("A"), self._place("B"), factor, turned, E)
        return Dora(low_rank, self._place("magnitude"), self.weight) if whole else low_rank

    def _place(self, role: str) -> Place:
        return place_of(self.facts, self.claim.tensors[role])
