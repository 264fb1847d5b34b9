"""What one adapter puts on one module of a model: a frozen value."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from engine.model.memory.layout import Want

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

Role = Literal[
    "A",  # (r, in, *kernel), of an embedding (r, vocabulary)
    "B",  # (out, r, *ones)
    "E",  # AdaLoRA's singular values (r, 1)
    "lora_bias",  # a bias of B, scaled as B is
    "magnitude",  # DoRA's norm per output
    "bias",  # the module's own bias, replaced
    "rows",  # an embedding's rows, replaced for a few tokens
    "table",  # the base's embedding, written along unchanged
    "l_in",  # IA3 over the inputs
    "l_out",  # IA3 over the outputs
]


@dataclass(frozen=True, slots=True)
class Part:
    """`path` is the module's path in the model, `kind` a row of KINDS, `tensors` say which of the adapter's tensors has
    which role. `rank` is the effective rank (0 without factors), `scaling` alpha/r or alpha/sqrt(r) of this module.
    With `leaf` the part is on one tensor of a module, and `path` ends in that name. `tokens` are those that the rows of
    role `rows` stand for, in their order. `module` is the live module itself.
    """

    path: str
    kind: str
    rank: int
    scaling: float
    module: nn.Module = field(compare=False, repr=False)
    tensors: Mapping[str, str] = field(default_factory=dict)
    leaf: str = ""
    tokens: tuple[int, ...] = ()

    def want(self, target_rank: int | None) -> Want:
        """What the layout must hold of the module for this part; factors of rank `target_rank` where one is given."""
        rank = max(target_rank or 0, self.rank) if self.rank else 0
        return Want(self.kind, rank, frozenset(self.tensors), self.leaf, len(self.tokens))
