"""What a merge kept of its parents: frozen values. README.md defines every number. No torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
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
class PairReport:
    """Two parents before the merge; `parents` are their places among the parents, from 0.

    `columns_overlap` and `rows_overlap` are the shared part of what their ΔW write to and read from (1: one holds the
    other), `cosine` that of the angle between both ΔW, `sign_conflict` the share of elements with opposite signs among
    those where neither is zero, of `elements` looked at. None where it would divide by zero.
    """

    parents: tuple[int, int]
    columns_overlap: float | None
    rows_overlap: float | None
    cosine: float | None
    sign_conflict: float | None
    elements: int


@dataclass(frozen=True, slots=True)
class Dominance:
    """The largest `share` of any parent, and whose: `parent` is its place among the parents, from 0."""

    parent: int
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """What a module's report and the whole merge's both say; over several modules, all taken together as one vector.

    `norm` is ‖D_k‖, `target_norm` ‖D‖. `truncation_error` is the relative error before rounding, and at most `bound`
    times that of the best result of this rank (of several modules the largest); None where it is the best.
    `rounding_error` what the result's dtype cost as a share of ‖D_k‖, `swallowed` the share of nonzero factor elements
    that it made zero, `swallowed_by_base` the share of the base's elements that adding D_k in the base's dtype would
    leave as they are. `norm_inflation` is ‖D_k‖ over the mean ‖D_i‖ of the parents that have the module. `cross_terms`
    is ‖D - Σ w_i·D_i‖/‖Σ w_i·D_i‖ for PEFT's types that merge A and B apart (and its `cat`), None elsewhere.
    """

    norm: float
    target_norm: float
    energy_kept: float
    relative_error: float
    truncation_error: float
    bound: float | None
    rounding_error: float
    swallowed: float
    swallowed_by_base: float | None
    norm_inflation: float | None
    dominance: Dominance | None
    parents: tuple[ParentReport, ...]
    pairs: tuple[PairReport, ...]
    cross_terms: float | None

    def by_name(self) -> dict[str, Any]:
        """The fields as they are, for the report that takes them over."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleReport(Measures):
    """One module of the result.

    `spectrum` are the singular values of the target D, largest first: all, or for methods on single elements the
    largest ones. None for grouped convolutions.
    """

    name: str
    rank: int
    spectrum: tuple[float, ...] | None


@dataclass(frozen=True, slots=True)
class RankNeed:
    """The fewest ranks of each module that keep `share` of ‖D‖²: the `largest` and the `median` over modules, and
    about how many bytes the weights file would have.

    `more_than` modules need more than the singular values known of them, which count as that many; `unknown` ones have
    no spectrum and count in the size alone, as they are. None where no module's spectrum is known.
    """

    share: float
    largest: int | None
    median: float | None
    size: int
    more_than: int
    unknown: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeReport(Measures):
    """The whole merge; `modules` counts `per_module`, `options` are those of the method with the values it used."""

    method: str
    options: Mapping[str, object]
    rank: int
    dtype: str
    modules: int
    ranks_for: tuple[RankNeed, ...]
    per_module: tuple[ModuleReport, ...]

    def as_json(self) -> dict[str, Any]:
        """A JSON object with the same names."""
        return asdict(self)
