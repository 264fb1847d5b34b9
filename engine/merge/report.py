"""What a merge kept of its parents: frozen values. README.md defines every number. No torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class ParentReport:
    """One parent's part in a module or in the whole merge.

    `norm` is ‖D_i‖, `cosine` that of the angle between the result and D_i, `retention` <D_k, D_i>/‖D_i‖² and `share`
    |w_i|·‖D_i‖ over the sum of all parents'. None where it would divide by zero (a parent without this module).
    """

    weight: float
    norm: float
    cosine: float | None
    retention: float | None
    share: float | None


@dataclass(frozen=True, slots=True)
class ModuleReport:
    """One module of the result.

    `norm` is ‖D_k‖. `spectrum` are the singular values of the target D, largest first: all, or for methods on single
    elements the largest ones. None for grouped convolutions.
    """

    name: str
    rank: int
    norm: float
    energy_kept: float
    relative_error: float
    spectrum: tuple[float, ...] | None
    parents: tuple[ParentReport, ...]


@dataclass(frozen=True, slots=True)
class MergeReport:
    """The whole merge, all modules taken together as one vector; `modules` counts `per_module`.

    `options` are those that the method took, with the values it used.
    """

    method: str
    options: Mapping[str, object]
    rank: int
    dtype: str
    modules: int
    norm: float
    energy_kept: float
    relative_error: float
    parents: tuple[ParentReport, ...]
    per_module: tuple[ModuleReport, ...]

    def as_json(self) -> dict[str, Any]:
        """A JSON object with the same names."""
        return asdict(self)
