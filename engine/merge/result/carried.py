"""A tensor of the result that no method makes: one parent's bytes, a weighted mean, or a weighted sum."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from engine.compat.together.refusals import refusal
from engine.errors import RefusedError
from engine.format.files.header import BITS
from engine.format.files.tensorfile import BLOCK, TensorFile
from engine.merge.dtypes import SIZES
from engine.merge.matrices.factors import TORCH_DTYPES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from engine.format.facts import AdapterFacts
    from engine.format.files.tensors import TensorInfo
    from engine.merge.given.weights import Weight


@dataclass(frozen=True, slots=True)
class Origin:
    """A parent's tensor, `factor` times; `parent` is its place among the sources."""

    parent: int
    facts: AdapterFacts
    info: TensorInfo
    factor: float = 1.0

    def open(self) -> TensorFile:
        """The parent's file; entering raises HeaderError where it is no longer the one whose header was read."""
        return TensorFile(self.facts.weights, self.facts.header)


@dataclass(frozen=True, slots=True)
class Carried:
    """A tensor of the result named `name`; `module` is the path whose weights count.

    `how` is `copy` (the only origin's bytes), `mean` (Σ w_i·x_i / Σ w_i over `origins`) or `sum` (Σ w_i·factor_i·x_i;
    zeros without origins), both in float64 and rounded once to `dtype`.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    module: str
    origins: tuple[Origin, ...]
    how: Literal["copy", "mean", "sum"] = "copy"
    rule: str = "merge-values"

    @property
    def count(self) -> int:
        """Number of elements."""
        return torch.Size(self.shape).numel()

    @property
    def size(self) -> int:
        """Bytes in the result."""
        return self.origins[0].info.size if self.how == "copy" else self.count * SIZES[self.dtype]

    def blocks(self, weights: Sequence[Weight]) -> Iterator[memoryview]:
        """The tensor's bytes, a block at a time, each overwritten by the next: a head may be larger than memory.

        Raises HeaderError where a file is no longer the one whose header was read; RefusedError for weights that add
        up to 0 where a mean is asked for, and values that are not finite.
        """
        if self.how == "copy":
            with self.origins[0].open() as file:
                yield from file.blocks(self.origins[0].info)
            return
        factors, divisor = self.factors(weights)
        for block in self._combined(factors):
            rounded = (block / divisor).to(TORCH_DTYPES[self.dtype])
            if not bool(rounded.isfinite().all()):
                raise self._refused("values are not finite, in a parent or in the result's dtype", "merge-values")
            yield rounded.view(torch.uint8).numpy().data

    def factors(self, weights: Sequence[Weight]) -> tuple[list[float], float]:
        """What each origin is multiplied with, and what the sum is divided by; raises before a tensor is read."""
        given = [weights[origin.parent].of(self.module) for origin in self.origins]
        if self.how != "mean":
            return [weight * origin.factor for weight, origin in zip(given, self.origins, strict=True)], 1.0
        total = sum(given)
        if total == 0:
            raise self._refused("the weights of the parents that have it add up to 0, so it has no mean", self.rule)
        return given, total

    def _combined(self, factors: Sequence[float]) -> Iterator[Tensor]:
        """Blocks of Σ factor_i·x_i, float64."""
        step = BLOCK // max(SIZES.values())
        with ExitStack() as opened:
            files = [opened.enter_context(origin.open()) for origin in self.origins]
            for start in range(0, self.count, step):
                total = torch.zeros(min(step, self.count - start), dtype=torch.float64)
                for file, origin, factor in zip(files, self.origins, factors, strict=True):
                    width = BITS[origin.info.dtype] // 8
                    data = file.part(origin.info, start * width, len(total) * width)
                    total += factor * torch.frombuffer(data, dtype=TORCH_DTYPES[origin.info.dtype]).double()
                yield total

    def _refused(self, reason: str, rule: str) -> RefusedError:
        return RefusedError([refusal(rule, f"{self.name}: {reason}", where=self.name)])
