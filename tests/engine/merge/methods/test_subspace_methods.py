"""tsv_m, knots_ties and core_ties against the papers' formulas on dense ΔW in float64 numpy."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from engine.merge import Part, RankRule, Source, merge
from engine.merge.methods.tsv_m import nearest_orthonormal
from tests.engine.merge.combining import found, target
from tests.engine.merge.factories import best, conv, deltas, distance, linear, normal, write_adapter

FP32 = 3e-7
NAMES = ["tsv_m", "knots_ties", "core_ties"]


def part(seed, *, rows=24, columns=20, rank=3, scaling=2.25):
    return Part(normal(seed, rows, rank), normal(seed + 50, rank, columns), scaling)


def scaled(one):
    return one.scaling * one.B.double().numpy(), one.A.double().numpy()


def dense(one):
    B, A = scaled(one)
    return B @ A


def ties(matrices, weights, *, density=0.2, rescale="none", elect="weighted", majority_sign="total", scale=1.0):
    """Yadav et al., section 3, with weights: what is equal to the least that is kept is kept."""
    stack = np.stack(matrices)
    for matrix in stack:
        kept = max(1, int(density * matrix.size))
        matrix[np.abs(matrix) < np.sort(np.abs(matrix), axis=None)[-kept]] = 0
    if rescale == "density":
        stack /= density
    w = np.array(weights)[:, None, None]
    votes = (w if elect == "weighted" else np.sign(w)) * (stack if majority_sign == "total" else np.sign(stack))
    elected = np.where(votes.sum(0) >= 0, 1.0, -1.0)
    agree = np.sign(w * stack) == elected
    share = (agree * np.abs(w)).sum(0)
    return scale * np.divide((agree * w * stack).sum(0), share, out=np.zeros_like(elected), where=share > 0)


def singular(matrix):
    """U, S, Vt without what rounding explains; the largest entry of each column of U positive."""
    U, S, Vt = np.linalg.svd(matrix, full_matrices=False)
    k = int((1e-11 * S[0] < S).sum())
    signs = np.sign(U[np.abs(U).argmax(0), range(len(S))])[:k]
    return U[:, :k] * signs, S[:k], Vt[:k] * signs[:, None]


def polar(X):
    P, _, Qt = np.linalg.svd(X, full_matrices=False)
    return P @ Qt


def tsv_m_dense(parts, weights, *, scale=1.0):
    """Gargiulo et al., algorithm 1: the low-rank parts, whitened by the orthogonal Procrustes problem."""
    pieces = [singular(dense(one)) for one in parts]
    most = min(dense(parts[0]).shape) // len(parts)
    U = polar(np.hstack([U[:, :most] for U, _, _ in pieces]))
    V = polar(np.hstack([Vt[:most].T for _, _, Vt in pieces]))
    S = np.concatenate([w * S[:most] for w, (_, S, _) in zip(weights, pieces, strict=True)])
    return scale * U @ np.diag(S) @ V.T


def knots_ties_dense(parts, weights, **options):
    """Stoica et al., section 4: one SVD of all ΔW side by side, a merge of the S·V_i, and back."""
    U, S, Vt = singular(np.hstack([dense(one) for one in parts]))
    blocks = np.split(S[:, None] * Vt, len(parts), axis=1)
    return U @ ties(blocks, weights, **options)


def core_ties_dense(parts, weights, **options):
    """Panariello et al., section 4: reference bases of the stacked factors, a merge of the cores, and back."""
    U, _, _ = singular(np.hstack([scaled(one)[0] for one in parts]))
    V, _, _ = singular(np.vstack([scaled(one)[1] for one in parts]).T)
    return U @ ties([U.T @ dense(one) @ V for one in parts], weights, **options) @ V.T


DENSE = {"tsv_m": tsv_m_dense, "knots_ties": knots_ties_dense, "core_ties": core_ties_dense}

CASES = {
    "two": ([1, 2], [3, 3], [0.7, 0.3]),
    "ranks and a negative weight": ([1, 2, 3], [2, 5, 1], [0.7, -0.4, 1.3]),
    "equal weights": ([1, 2, 3, 4], [3, 3, 3, 3], [1.0, 1.0, 1.0, 1.0]),
    "one": ([1], [4], [1.0]),
}


@pytest.mark.parametrize("method", NAMES)
@pytest.mark.parametrize(("seeds", "ranks", "weights"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("shape", [(24, 20), (9, 30), (30, 9)])
def test_is_the_papers_formula(method, seeds, ranks, weights, shape):
    """More ranks than rows or columns among them; scalings differ."""
    rows, columns = shape
    parts = [
        part(seed, rows=rows, columns=columns, rank=rank, scaling=0.5 + seed)
        for seed, rank in zip(seeds, ranks, strict=True)
    ]

    assert distance(found(method, parts, weights, scale=1.5), DENSE[method](parts, weights, scale=1.5)) < 1e-11


@pytest.mark.parametrize("method", ["knots_ties", "core_ties"])
@pytest.mark.parametrize(
    "options",
    [
        {"density": 0.5},
        {"density": 1.0},
        {"density": 0.3, "rescale": "density"},
        {"elect": "unweighted"},
        {"majority_sign": "frequency"},
        {"density": 0.6, "elect": "unweighted", "majority_sign": "frequency", "scale": 0.8},
    ],
    ids=str,
)
def test_every_option_of_the_signs(method, options):
    parts, weights = [part(seed, scaling=0.5 + seed) for seed in (1, 2, 3)], [0.9, 0.2, -0.5]

    assert distance(found(method, parts, weights, **options), DENSE[method](parts, weights, **options)) < 1e-11


def test_the_basis_of_the_cores_matters():
    """With an orthonormal basis of the same subspaces from QR the cores give another result."""
    parts, weights = [part(1), part(2)], [1.0, 1.0]
    U, _ = np.linalg.qr(np.hstack([scaled(one)[0] for one in parts]))
    V, _ = np.linalg.qr(np.vstack([scaled(one)[1] for one in parts]).T)
    other = U @ ties([U.T @ dense(one) @ V for one in parts], weights) @ V.T

    assert distance(found("core_ties", parts, weights), other) > 0.1


def test_cores_do_not_see_where_a_scaling_is_kept():
    """Scaling 3, or 1 and B three times as large, are the same adapter."""
    other = part(2, scaling=0.5)
    folded = Part(3 * part(1).B, part(1).A, 1.0)

    result = found("core_ties", [part(1, scaling=3.0), other], [1.0, 1.0])

    assert distance(found("core_ties", [folded, other], [1.0, 1.0]), result) < 1e-6


@pytest.mark.parametrize("method", NAMES)
def test_one_parent_is_itself(method):
    """With weight 1, nothing trimmed."""
    options = {} if method == "tsv_m" else {"density": 1.0}

    assert distance(found(method, [part(1)], [1.0], **options), dense(part(1))) < 1e-12


@pytest.mark.parametrize("method", NAMES)
def test_order_of_parents_does_not_matter(method):
    parts, weights = [part(1, rank=2), part(2, rank=5), part(3)], [0.5, 0.3, -0.4]

    assert distance(found(method, parts[::-1], weights[::-1]), found(method, parts, weights)) < 1e-11


@pytest.mark.parametrize("method", NAMES)
def test_negated_weights_negate(method):
    parts, weights = [part(1), part(2), part(3)], [0.5, 0.3, -0.4]

    assert distance(found(method, parts, [-w for w in weights]), -found(method, parts, weights)) < 1e-11


@pytest.mark.parametrize(("method", "factor"), [("tsv_m", 3.0), ("knots_ties", 1.0), ("core_ties", 1.0)])
def test_scaled_weights(method, factor):
    """Singular values are multiplied; a mean of elements divides by the weights again."""
    parts, weights = [part(1), part(2)], [0.5, 0.3]

    result = found(method, parts, [3 * w for w in weights])

    assert distance(result, factor * found(method, parts, weights)) < 1e-11


@pytest.mark.parametrize("method", NAMES)
def test_lambda_multiplies(method):
    parts = [part(1), part(2)]

    assert distance(found(method, parts, [1.0, 1.0], scale=-2.5), -2.5 * found(method, parts, [1.0, 1.0])) < 1e-12


@pytest.mark.parametrize("method", NAMES)
def test_a_parent_twice_is_once(method):
    """The same directions twice, not noise beside them: the mean of both, which for tsv_m has the mean weight."""
    result = found(method, [part(1), part(1)], [0.3, 0.9])

    weight = 0.6 if method == "tsv_m" else 1.0
    assert distance(result, found(method, [part(1)], [weight])) < 1e-11


@pytest.mark.parametrize("method", NAMES)
def test_a_parent_twice_beside_another(method):
    """The formula's own result, where singular vectors are dependent and U and V have fewer columns than they hold."""
    result = found(method, [part(1), part(2), part(1)], [0.3, 0.5, 0.4])
    if method == "tsv_m":
        one, other = singular(dense(part(1))), singular(dense(part(2)))
        expected = _pseudo_tsv([one, other, one], [0.3, 0.5, 0.4])
    else:
        expected = DENSE[method]([part(1), part(2), part(1)], [0.3, 0.5, 0.4])

    assert distance(result, expected) < 1e-10


def _pseudo_tsv(pieces, weights):
    """Singular values of the stacked vectors to the power 0, where they are not zero."""
    sides = []
    for stack in (np.hstack([U for U, _, _ in pieces]), np.hstack([Vt.T for _, _, Vt in pieces])):
        P, _, Qt = singular(stack)
        sides.append(P @ Qt)
    S = np.concatenate([w * S for w, (_, S, _) in zip(weights, pieces, strict=True)])
    return sides[0] @ np.diag(S) @ sides[1].T


@pytest.mark.parametrize("method", NAMES)
@pytest.mark.parametrize("reason", ["weight", "B", "absent"])
def test_parents_that_add_nothing_leave_no_trace(method, reason):
    parts, weights, absent = [part(1), part(2)], [0.5, 0.3], []
    expected = found(method, parts, weights)
    if reason == "weight":
        parts, weights = [*parts, part(3)], [*weights, 0.0]
    if reason == "B":
        parts, weights = [*parts, Part(torch.zeros(24, 3), normal(9, 3, 20), 2.0)], [*weights, 0.7]
    if reason == "absent":
        absent = [0.7]

    assert distance(found(method, parts, weights, absent=absent), expected) < 1e-11


@pytest.mark.parametrize("method", NAMES)
def test_nothing_but_zeros_is_zero(method):
    zero = Part(torch.zeros(24, 3), normal(9, 3, 20), 2.0)

    assert not found(method, [zero, zero], [1.0, 1.0]).any()
    assert not found(method, [part(1)], [0.0]).any()


@pytest.mark.parametrize("method", NAMES)
@pytest.mark.parametrize("rank", [1, 4])
def test_a_rank_cut_is_the_best_of_its_rank(method, rank):
    parts, weights = [part(1), part(2)], [0.7, 0.3]

    B, A = target(method, parts, weights).factors(rank)

    assert distance((B @ A).numpy(), best(DENSE[method](parts, weights), rank)) < 1e-11


@pytest.mark.parametrize("method", NAMES)
def test_spectrum_and_energy_are_those_of_the_dense_result(method):
    parts, weights = [part(1), part(2)], [0.7, 0.3]
    expected = DENSE[method](parts, weights)

    result = target(method, parts, weights)

    S = np.linalg.svd(expected, compute_uv=False)[: len(result.S)]
    np.testing.assert_allclose(result.S.numpy(), S, atol=1e-12 * S[0])
    assert result.energy == pytest.approx(np.sum(expected**2), rel=1e-12)


@pytest.mark.parametrize("method", NAMES)
def test_rank_deficient_factors_bring_no_noise(method):
    """A column of B twice, so that a singular value of D_i is rounding."""
    one = part(1)
    B = torch.cat([one.B, one.B[:, :1]], 1)
    A = torch.cat([one.A, normal(77, 1, 20)], 0)
    parts, weights = [Part(B, A, 1.0), part(2)], [0.7, 0.3]

    assert distance(found(method, parts, weights), DENSE[method](parts, weights)) < 1e-10


def test_tsv_m_takes_no_more_than_its_share():
    """Two parents of rank 5 in 6 rows: three singular values of each."""
    parts = [part(seed, rows=6, rank=5) for seed in (1, 2)]

    result = found("tsv_m", parts, [1.0, 1.0])

    assert distance(result, tsv_m_dense(parts, [1.0, 1.0])) < 1e-12
    assert distance(result, dense(parts[0]) + dense(parts[1])) > 0.1


def test_tsv_m_of_more_parents_than_rows_takes_one_each():
    parts = [part(seed, rows=2) for seed in (1, 2, 3)]
    pieces = [tuple(x[..., :1] if i != 2 else x[:1] for i, x in enumerate(singular(dense(one)))) for one in parts]

    assert distance(found("tsv_m", parts, [1.0] * 3), _pseudo_tsv(pieces, [1.0] * 3)) < 1e-12


def test_nearest_orthonormal_by_hand():
    """Unit vectors at 60° are turned 15° each, away from one another; of two equal ones each becomes 1/√2 of it."""
    found = nearest_orthonormal(torch.tensor([[1.0, 0.5], [0.0, 0.75**0.5]], dtype=torch.float64))
    equal = nearest_orthonormal(torch.tensor([[1.0, 1.0], [0.0, 0.0]], dtype=torch.float64))

    low, high = np.cos(np.radians(15)), np.sin(np.radians(15))
    np.testing.assert_allclose(found.numpy(), [[low, high], [-high, low]], atol=1e-14)
    np.testing.assert_allclose(equal.numpy(), [[0.5**0.5, 0.5**0.5], [0.0, 0.0]], atol=1e-14)


@pytest.mark.parametrize("method", NAMES)
def test_values_that_are_not_finite_raise(method):
    broken = part(1)
    broken.B[3, 1] = float("nan")

    with pytest.raises(FloatingPointError):
        target(method, [broken, part(2)], [1.0, 1.0])


def adapters(folder):
    """Two parents: a Linear and a grouped convolution in both, a Linear in one alone."""
    made = []
    for seed, rank in ((1, 4), (2, 2)):
        tensors = linear("both", inputs=16, outputs=12, rank=rank, seed=seed)
        tensors |= linear(f"only{seed}", inputs=10, outputs=9, rank=rank, seed=seed + 40)
        tensors |= conv("conv", inputs=4, outputs=6, kernel=(3, 3), rank=rank, seed=seed + 20, groups=2)
        made.append(write_adapter(folder / f"parent{seed}", tensors, r=rank))
    return made


def factors(folder, name):
    """The factors as a file holds them, as one Part for each of the groups."""
    tensors = load_file(folder / "adapter_model.safetensors")
    A, B = (tensors[f"base_model.model.{name}.lora_{letter}.weight"].flatten(1) for letter in "AB")
    groups = A.shape[0] // B.shape[1]
    return [
        Part(b, a, 9 / A.shape[0]) for b, a in zip(B.chunk(groups), A.chunk(groups), strict=True)
    ]  # write_adapter's alpha is 9


@pytest.mark.parametrize("method", NAMES)
def test_from_file_to_file(tmp_path, method):
    """Every group by itself; a module alone as a merge of one."""
    first, second = adapters(tmp_path)

    merge([Source(first, 0.7), Source(second, 0.5)], method=method, rule=RankRule("max"), out=tmp_path / "out")

    out = deltas(tmp_path / "out")
    both = list(zip(factors(first, "conv"), factors(second, "conv"), strict=True))
    assert len(both) == 2
    assert distance(out["conv"], np.concatenate([DENSE[method](pair, [0.7, 0.5]) for pair in both])) < FP32
    assert distance(out["only1"], DENSE[method](factors(first, "only1"), [0.7])) < FP32
    assert distance(out["both"], DENSE[method]([*factors(first, "both"), *factors(second, "both")], [0.7, 0.5])) < FP32


@pytest.mark.parametrize("method", NAMES)
def test_the_same_recipe_gives_the_same_bytes(tmp_path, method):
    sources = [Source(folder, 0.7) for folder in adapters(tmp_path)]

    for name, jobs in (("one", 1), ("two", 2)):
        merge(sources, method=method, out=tmp_path / name, jobs=jobs)

    one, two = (tmp_path / name / "adapter_model.safetensors" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
