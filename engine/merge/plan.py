"""The plan of a merge: frozen values that name every tensor of the result before one is read."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from engine.compat.together.ia3 import all_ia3
from engine.merge.given.ranks import RankRule
from engine.merge.methods import find
from engine.merge.result.config import Adapted, result_config
from engine.merge.result.ia3 import ia3_config, vector_key
from engine.merge.result.parameters import evened

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.format.facts import AdapterFacts, ModuleFacts
    from engine.merge.given.options import Options
    from engine.merge.given.source import Source
    from engine.merge.matrices.dora import DoraWeight
    from engine.merge.measuring.swallow import BaseWeight
    from engine.merge.methods import Method
    from engine.merge.result.carried import Carried
    from engine.merge.result.others import Extras


@dataclass(frozen=True, slots=True)
class Piece:
    """One parent's factors of one module; `parent` is its place in `MergePlan.sources`, `dora` what makes its true ΔW
    of them where it is of full rank.
    """

    parent: int
    module: ModuleFacts
    dora: DoraWeight | None = None

    @property
    def rank(self) -> int:
        """The most that its ΔW can have, times the groups."""
        a, b = self.module.a_shape, self.module.b_shape
        return a[0] if self.dora is None else min(b[0], math.prod(a[1:]))


@dataclass(frozen=True, slots=True)
class ModulePlan:
    """One module of the result, seen as `groups` independent sums of B (rows, r) times A (r, columns).

    `rank` is A's first dimension in the result; only grouped convolutions and bare parameters (`experts`: the groups
    are the experts) have more than one group. A `vector` (IA3) is a sum with A (1, 1) and one tensor in the result.
    """

    name: str
    rank: int
    groups: int
    pieces: tuple[Piece, ...]
    experts: bool = False
    vector: bool = False

    @property
    def declared_rank(self) -> int:
        """The rank that the result's config gives the module."""
        return self.rank // self.groups if self.experts else self.rank

    @property
    def a_shape(self) -> tuple[int, ...]:
        """The shape of A in the result."""
        return (self.rank, *self.pieces[0].module.a_shape[1:])

    @property
    def b_shape(self) -> tuple[int, ...]:
        """The shape of B in the result."""
        b = self.pieces[0].module.b_shape
        return (b[0], self.rank if self.experts else self.rank // self.groups, *b[2:])

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
    """A merge that will be carried out as it stands; `dtype` is safetensors' name of the result's.

    Where `rule` asks for measured ranks, those of `modules` are the most they may become. `options` are complete.
    `base_weights` are by module, where a base was given. `inflation` multiplies the result where PEFT's would be.
    `digests` and `thresholds`, one a source, are there once a method's survey has found them.
    """

    method: str
    sources: tuple[Source, ...]
    parents: tuple[AdapterFacts, ...]
    dtype: str
    rule: RankRule
    options: Options
    modules: tuple[ModulePlan, ...]
    others: tuple[Carried, ...]
    extras: Extras
    semantics: str = "exact"
    inflation: float = 1.0
    digests: tuple[str, ...] = ()
    thresholds: tuple[float, ...] = ()
    base_weights: Mapping[str, BaseWeight] = field(default_factory=dict)

    @property
    def row(self) -> Method:
        """The method's row of the table that the semantics chooses."""
        return find(self.method, self.semantics, parents=len(self.sources))

    @property
    def rank(self) -> int:
        """The largest of the modules'."""
        return max(module.declared_rank for module in self.modules)

    @property
    def config(self) -> dict[str, Any]:
        """The result's adapter_config.json."""
        if all_ia3(self.parents):
            return ia3_config(self.parents, self.extras)
        adapted = [Adapted(module.name, module.declared_rank, parameter=module.experts) for module in self.modules]
        return result_config([facts.config for facts in self.parents], adapted, self.extras)

    @property
    def tensors(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Dtype and shape of every tensor of the result's weights."""
        found = {one.name: (one.dtype, one.shape) for one in self.others}
        for module in self.modules:
            if module.vector:
                found[vector_key(module.name)] = (self.dtype, module.pieces[0].module.a_shape)
                continue
            found[module.a_key] = (self.dtype, module.a_shape)
            found[module.b_key] = (self.dtype, module.b_shape)
        return found

    def with_ranks(self, ranks: Mapping[str, int]) -> MergePlan:
        """The same merge with these ranks of its modules."""
        modules = (replace(module, rank=ranks[module.name]) for module in self.modules)
        # Never more than a budget allows, never less than a share of the energy needs.
        choose = max if self.rule.budget is None else min
        return replace(self, modules=evened(modules, choose), rule=RankRule())


def _key(name: str, original: str, letter: str) -> str:
    if "lora_embedding_" in original:
        return f"base_model.model.{name}.lora_embedding_{letter}"
    return f"base_model.model.{name}.lora_{letter}.weight"
