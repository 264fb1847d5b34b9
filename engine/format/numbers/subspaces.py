"""How two low-rank matrices D = s·B·A differ: norms, distance, cosine, angles between their spaces. From factors alone.

With [B₁ B₂] = Qb·Rb and [A₁; A₂]ᵀ = Qa·Ra, each D_i = Qb·C_i·Qaᵀ with the small core C_i = s_i·Rb[:, i]·Ra[:, i]ᵀ, so
norms, distances and singular vectors of the D_i are those of the C_i. Everything is float64; a distance, an angle or a
singular value that rounding alone explains is exactly zero. numpy is imported on first use.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.format.numbers.signs import Signs, all_signs, compare_signs

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Block:
    """One matrix D = scaling·B·A with B (out, r) and A (r, in), float64."""

    B: Matrix
    A: Matrix
    scaling: float


@dataclass(frozen=True, slots=True)
class Spaces:
    """Two subspaces of one space, of dimensions `ranks`.

    `angles` are the principal angles in degrees, ascending, as many as the smaller dimension (Björck and Golub 1973).
    `overlap` is the mean of their squared cosines, ‖U₁ᵀU₂‖²_F / min(ranks): the φ of Hu et al. 2021 (LoRA, section 7.2)
    for all singular directions. 1 where one space holds the other, 0 where they are orthogonal, None where one is zero.
    """

    ranks: tuple[int, int]
    overlap: float | None
    angles: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Contrast:
    """Two matrices side by side: Frobenius norms, ‖D₁ - D₂‖_F, <D₁, D₂>_F, their spaces and their signs.

    `columns` are the spaces that B·A maps onto (outputs), `rows` those it reads from (inputs).
    """

    norms: tuple[float, float]
    distance: float
    inner: float
    columns: Spaces
    rows: Spaces
    signs: Signs

    @property
    def relative(self) -> float:
        """The distance as a share of the larger norm: 0 for equal matrices (also two zeros), 2 for opposite ones."""
        return self.distance / max(self.norms) if max(self.norms) else 0.0

    @property
    def cosine(self) -> float | None:
        """The cosine of the angle between both matrices as vectors; None where one is zero."""
        product = self.norms[0] * self.norms[1]
        return max(-1.0, min(1.0, self.inner / product)) if product else None

    @property
    def shares(self) -> tuple[float, float] | None:
        """Each norm as a share of both: what a merge with equal weights reports; None where both are zero."""
        total = sum(self.norms)
        return (self.norms[0] / total, self.norms[1] / total) if total else None


def contrast(pairs: Iterable[tuple[Block, Block]]) -> Contrast | None:
    """Two matrices given as pairs of blocks: one pair, or the diagonal blocks of grouped ones, one after the other.

    The spaces of a block-diagonal matrix are the direct sums of its blocks' spaces, so their angles are all blocks'
    angles. None where a factor is not finite or a product overflows.
    """
    import numpy as np

    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        found = [_of_block(left, right) for left, right in pairs]
    known = [one for one in found if one is not None]
    return together(known) if len(known) == len(found) else None


def together(parts: Sequence[Contrast]) -> Contrast:
    """Several contrasts as one: all matrices of a side as one vector, all angles together."""
    return Contrast(
        norms=(math.hypot(*(one.norms[0] for one in parts)), math.hypot(*(one.norms[1] for one in parts))),
        distance=math.hypot(*(one.distance for one in parts)),
        inner=math.fsum(one.inner for one in parts),
        columns=_joined([one.columns for one in parts]),
        rows=_joined([one.rows for one in parts]),
        signs=all_signs([one.signs for one in parts]),
    )


def _of_block(left: Block, right: Block) -> Contrast | None:
    import numpy as np

    if not all(np.isfinite(factor).all() for factor in (left.B, left.A, right.B, right.A)):
        return None
    outputs = _triangle(np.hstack([left.B, right.B]))  # (p, r1 + r2)
    inputs = _triangle(np.hstack([left.A.T, right.A.T]))  # (q, r1 + r2)
    split = left.B.shape[1]
    one = left.scaling * (outputs[:, :split] @ inputs[:, :split].T)  # (p, q)
    other = right.scaling * (outputs[:, split:] @ inputs[:, split:].T)
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return None
    noise = float(np.finfo(np.float64).eps) * max(left.B.shape[0], left.A.shape[1])
    (columns_1, rows_1), (columns_2, rows_2) = _bases(one, noise), _bases(other, noise)
    norms = (float(np.linalg.norm(one)), float(np.linalg.norm(other)))
    distance = float(np.linalg.norm(one - other))
    return Contrast(
        norms=norms,
        distance=distance if distance > noise * max(norms) else 0.0,
        inner=float(np.vdot(one, other)),
        columns=_spaces(columns_1, columns_2, noise),
        rows=_spaces(rows_1, rows_2, noise),
        signs=compare_signs(left, right),
    )


def _triangle(stack: Matrix) -> Matrix:
    """R of the QR factorisation of `stack` (long, R), or the stack itself where it is no longer than wide."""
    import numpy as np

    if stack.shape[0] <= stack.shape[1]:
        return stack
    triangle: Any = np.linalg.qr(stack, mode="r")
    return np.asarray(triangle, np.float64)


def _bases(core: Matrix, noise: float) -> tuple[Matrix, Matrix]:
    """Orthonormal bases of the column and row spaces of a matrix."""
    import numpy as np

    U, S, Vt = np.linalg.svd(core, full_matrices=False)
    rank = int(np.count_nonzero(noise * S[0] < S)) if S.size else 0
    return U[:, :rank], Vt[:rank].T


def _spaces(one: Matrix, other: Matrix, noise: float) -> Spaces:
    """Angles from cosines where they are large and from sines where they are small, as each is exact there.

    Knyazev and Argentati 2002, algorithm 3.1: arccos alone cannot tell angles below 1e-8 from zero.
    """
    import numpy as np

    ranks = (one.shape[1], other.shape[1])
    if 0 in ranks:
        return Spaces(ranks, None, ())
    wide, narrow = (one, other) if ranks[0] >= ranks[1] else (other, one)
    product = wide.T @ narrow
    cosines = np.clip(np.linalg.svd(product, compute_uv=False), 0.0, 1.0)  # descending
    sines = np.clip(np.linalg.svd(narrow - wide @ product, compute_uv=False), 0.0, 1.0)[::-1]  # ascending
    sines = np.where(sines > noise, sines, 0.0)
    angles: Any = np.where(cosines**2 >= 0.5, np.arcsin(sines), np.arccos(cosines))
    shared = np.where(cosines**2 >= 0.5, 1 - sines**2, cosines**2)
    return Spaces(ranks, float(shared.mean()), tuple(float(angle) for angle in np.degrees(angles)))


def _joined(parts: Sequence[Spaces]) -> Spaces:
    if len(parts) == 1:
        return parts[0]
    angles = sorted(angle for one in parts for angle in one.angles)
    held = math.fsum(min(one.ranks) * one.overlap for one in parts if one.overlap is not None)
    ranks = (sum(one.ranks[0] for one in parts), sum(one.ranks[1] for one in parts))
    return Spaces(ranks, held / len(angles) if angles else None, tuple(angles))
