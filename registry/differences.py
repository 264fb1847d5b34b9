"""What `diff` returns: frozen values, each with its JSON object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Change = Literal["same", "changed", "added", "removed"]


@dataclass(frozen=True, slots=True)
class DiffSide:
    """One side: the exact reference, or the path as given (which has no digest)."""

    ref: str
    digest: str | None


@dataclass(frozen=True, slots=True)
class ValueDiff:
    """A key with another value on each side; null where a side has none."""

    key: str
    left: Any
    right: Any


@dataclass(frozen=True, slots=True)
class SpaceDiff:
    """Two subspaces: dimensions, overlap from 0 to 1, principal angles in degrees (engine.format.numbers: Spaces)."""

    ranks: tuple[int, int]
    overlap: float | None
    angles: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ModuleDiff:
    """One module: facts that differ, norms of both ΔW, ‖ΔW₁ - ΔW₂‖ also as a share of the larger norm, cosine, and the
    spaces of B·A (columns are outputs, rows inputs). `same` means the same bytes and facts. `reason` says why the
    numbers are null. `shares` are each norm's of both, `sign_conflict` the share of opposite signs among elements where
    neither is zero, of `elements` looked at: as a merge's report defines them.
    """

    name: str
    change: Change
    facts: tuple[ValueDiff, ...]
    norms: tuple[float | None, float | None]
    distance: float | None
    relative: float | None
    cosine: float | None
    columns: SpaceDiff | None
    rows: SpaceDiff | None
    reason: str | None = None
    shares: tuple[float, float] | None = None
    sign_conflict: float | None = None
    elements: int | None = None


@dataclass(frozen=True, slots=True)
class ThingDiff:
    """A file, with its digests; or a tensor that is no factor, which is compared by its bytes."""

    path: str
    change: Change
    left: str | None
    right: str | None


@dataclass(frozen=True, slots=True)
class DiffSummary:
    """All modules together, as one vector for each side; `modules` counts them by change."""

    same_config: bool
    identical_tensors: bool
    modules: Mapping[str, int]
    norms: tuple[float, float] | None
    distance: float | None
    relative: float | None
    cosine: float | None
    columns_overlap: float | None
    rows_overlap: float | None
    most_different: tuple[str, ...]
    shares: tuple[float, float] | None = None
    sign_conflict: float | None = None
    elements: int | None = None


@dataclass(frozen=True, slots=True)
class DiffResult:
    """Two adapters side by side; `same` where all files are equal."""

    left: DiffSide
    right: DiffSide
    same: bool
    config: tuple[ValueDiff, ...]
    modules: tuple[ModuleDiff, ...]
    tensors: tuple[ThingDiff, ...]
    files: tuple[ThingDiff, ...]
    summary: DiffSummary
