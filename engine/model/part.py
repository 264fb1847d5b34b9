"""What one adapter puts on one module of a model: a frozen value."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Role = Literal["A", "B", "lora_bias", "magnitude", "bias", "tokens"]


@dataclass(frozen=True, slots=True)
class Part:
    """`path` is the module's path in the model, `kind` a row of KINDS, `tensors` say which of the adapter's tensors has
    which role. `rank` is the effective rank (0 without factors), `scaling` alpha/r or alpha/sqrt(r) of this module.
    With `leaf` the part is on one tensor of a module, and `path` ends in that name.
    """

    path: str
    kind: str
    rank: int
    scaling: float
    tensors: Mapping[str, str] = field(default_factory=dict)
    leaf: str = ""
