"""The numbers of a report beyond what was kept, each by hand on small matrices."""

import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from engine.format.numbers.samples import MOST, places
from engine.merge import RankRule, Source, merge
from engine.merge.matrices import pairs
from engine.merge.matrices.parts import Part, Parts
from tests.engine.merge.factories import PREFIX, deltas, linear, write_adapter


def matrix(rows):
    """Factors whose product is the matrix itself, scaling 1."""
    B = torch.tensor(rows, dtype=torch.float32)
    return {"B": B, "A": torch.eye(B.shape[1])}


def adapter(folder, **modules):
    """A parent with one module for each keyword: a matrix as rows, or its factors; scaling 1."""
    tensors = {}
    for name, given in modules.items():
        factors = given if isinstance(given, dict) else matrix(given)
        tensors[f"{PREFIX}{name}.lora_A.weight"] = factors["A"].contiguous()
        tensors[f"{PREFIX}{name}.lora_B.weight"] = factors["B"].contiguous()
    ranks = {name: tensors[f"{PREFIX}{name}.lora_A.weight"].shape[0] for name in modules}
    return write_adapter(folder, tensors, r=1, lora_alpha=1, rank_pattern=ranks, alpha_pattern=ranks)


def report(tmp_path, *parents, weights=None, method="svd", **options):
    """The report of merging the parents, given as keyword dictionaries for `adapter`."""
    folders = [adapter(tmp_path / f"parent{place}", **parent) for place, parent in enumerate(parents)]
    given = weights or [1.0] * len(parents)
    sources = [Source(folder, weight) for folder, weight in zip(folders, given, strict=True)]
    return merge(sources, method=method, out=tmp_path / "out", **options)


def test_truncation_is_told_apart_from_rounding(tmp_path):
    """diag(3, 4) cut to rank 1 loses 3 of 5; the kept 4 = 2·2 is exact in bfloat16, so nothing is lost to it."""
    found = report(tmp_path, {"m": [[3.0, 0.0], [0.0, 4.0]]}, rule=RankRule(1), dtype="bf16")

    assert (found.truncation_error, found.rounding_error) == pytest.approx((0.6, 0.0), abs=1e-12)
    assert (found.norm, found.target_norm) == pytest.approx((4.0, 5.0))


def test_rounding_is_told_apart_from_truncation(tmp_path):
    """1/3 in bfloat16 is 171/512, too large by 1/512 of itself (within float32's own rounding of 1/3)."""
    found = report(tmp_path, {"m": [[1 / 3]]}, method="cat", dtype="bf16")

    assert found.truncation_error == 0.0
    assert found.rounding_error == pytest.approx(1 / 512, rel=1e-4)
    assert found.relative_error == pytest.approx(1 / 512, rel=1e-4)
    assert found.per_module[0].rounding_error == found.rounding_error


def test_elements_that_the_dtype_makes_zero_are_counted(tmp_path):
    """Of B = (1, 1e-9) and A = (1, 0) three elements are not zero; float16 has nothing near 1e-9."""
    factors = {"B": torch.tensor([[1.0], [1e-9]]), "A": torch.tensor([[1.0, 0.0]])}

    found = report(tmp_path, {"m": factors}, method="cat", dtype="fp16")

    assert (found.swallowed, found.per_module[0].swallowed) == pytest.approx((1 / 3, 1 / 3))


def test_swallowed_elements_of_all_modules_are_counted_together(tmp_path):
    swallowing = {"B": torch.tensor([[1.0], [1e-9]]), "A": torch.tensor([[1.0, 0.0]])}

    found = report(tmp_path, {"a": swallowing, "b": [[1.0]]}, method="cat", dtype="fp16")

    assert found.swallowed == pytest.approx(1 / 5)


def test_norm_inflation_is_over_the_mean_norm_of_parents(tmp_path):
    """diag(3, 0) + diag(0, 4) has norm 5, its parents 3.5 in the mean."""
    found = report(tmp_path, {"m": [[3.0, 0.0], [0.0, 0.0]]}, {"m": [[0.0, 0.0], [0.0, 4.0]]})

    assert (found.norm_inflation, found.per_module[0].norm_inflation) == pytest.approx((5 / 3.5, 5 / 3.5))


def test_parents_without_a_module_do_not_count_in_its_norm_inflation(tmp_path):
    """b alone has y: 4 over 4; over both modules parents of norms 3 and 4 make a result of norm 5."""
    found = report(tmp_path, {"x": [[3.0]]}, {"y": [[4.0]]}, method="cat")

    assert [module.norm_inflation for module in found.per_module] == pytest.approx([1.0, 1.0])
    assert found.norm_inflation == pytest.approx(5 / 3.5)


def test_a_parent_that_is_zero_in_a_module_counts_in_its_norm_inflation(tmp_path):
    found = report(tmp_path, {"m": [[4.0]]}, {"m": [[0.0]]})

    assert found.norm_inflation == pytest.approx(2.0)


def test_dominance_is_the_largest_share_and_whose(tmp_path):
    """1·3 against 0.5·8: shares 3/7 and 4/7; in y only the first parent has any."""
    found = report(
        tmp_path, {"x": [[3.0, 0.0], [0.0, 0.0]], "y": [[1.0]]}, {"x": [[0.0, 0.0], [0.0, 8.0]]}, weights=[1.0, 0.5]
    )

    x, y = found.per_module
    assert (x.dominance.parent, x.dominance.share) == (1, pytest.approx(4 / 7))
    assert (y.dominance.parent, y.dominance.share) == (0, 1.0)
    assert found.dominance.parent == 1  # √(3² + 1²) against 0.5·8
    assert found.dominance.share == pytest.approx(4 / (4 + math.sqrt(10)))


def test_nobody_dominates_nothing(tmp_path):
    found = report(tmp_path, {"m": [[0.0]]}, {"m": [[0.0]]})

    assert (found.dominance, found.norm_inflation, found.truncation_error, found.rounding_error) == (None, None, 0, 0)
    (pair,) = found.pairs
    assert (pair.columns_overlap, pair.rows_overlap, pair.cosine, pair.sign_conflict) == (None, None, None, None)
    assert pair.elements == 1


def test_sign_conflict_counts_elements_where_neither_is_zero(tmp_path):
    """[[1, -2], [3, 0]] against [[1, 5], [-1, 2]]: three elements compare, two are opposed."""
    found = report(tmp_path, {"m": [[1.0, -2.0], [3.0, 0.0]]}, {"m": [[1.0, 5.0], [-1.0, 2.0]]})

    (pair,) = found.pairs
    assert (pair.parents, pair.sign_conflict, pair.elements) == ((0, 1), pytest.approx(2 / 3), 4)
    assert pair.cosine == pytest.approx((1 - 10 - 3) / math.sqrt(14 * 31))
    assert (pair.columns_overlap, pair.rows_overlap) == pytest.approx((1.0, 1.0))


def test_a_negative_scaling_turns_the_signs():
    B, A = torch.ones(2, 1), torch.ones(1, 3)

    found = Parts([Part(B, A, 2.0), Part(B, A, -0.5)]).pairs[0, 1]

    assert (found.opposed, found.both, found.elements) == (6, 6, 6)


def test_elements_that_rounding_alone_explains_count_as_zero():
    """0.1·3 - 0.3·1 is zero but for the rounding of 0.1 and 0.3."""
    B = torch.tensor([[0.1, 0.3]], dtype=torch.float64)
    A = torch.tensor([[3.0], [-1.0]], dtype=torch.float64)
    assert float(B @ A) != 0.0 or float((B * A.T).sum()) != 0.0

    found = Parts([Part(B, A, 1.0), Part(torch.ones(1, 1), torch.ones(1, 1), 1.0)]).pairs[0, 1]

    assert (found.opposed, found.both, found.elements) == (0, 0, 1)


def test_overlap_is_the_mean_squared_cosine_of_the_angles(tmp_path):
    """4x3: columns turned by 30 degrees share cos² = 3/4; rows are orthogonal, so the vectors are too."""
    turned = torch.tensor([[math.cos(math.radians(30))], [math.sin(math.radians(30))], [0.0], [0.0]])
    one = {"B": torch.tensor([[1.0], [0.0], [0.0], [0.0]]), "A": torch.tensor([[1.0, 0.0, 0.0]])}
    other = {"B": turned, "A": torch.tensor([[0.0, 1.0, 0.0]])}

    (pair,) = report(tmp_path, {"m": one}, {"m": other}).pairs

    assert (pair.columns_overlap, pair.rows_overlap) == pytest.approx((0.75, 0.0), abs=1e-7)
    assert pair.cosine == pytest.approx(0.0, abs=1e-7)
    assert (pair.sign_conflict, pair.elements) == (None, 12)


def test_a_subspace_lies_wholly_in_a_larger_one(tmp_path):
    """4x3, rank 1 against rank 2: divided by the smaller dimension."""
    one = [[1.0, 0.0, 0.0], [0.0] * 3, [0.0] * 3, [0.0] * 3]
    other = [[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0] * 3, [0.0] * 3]

    (pair,) = report(tmp_path, {"m": one}, {"m": other}).pairs

    assert (pair.columns_overlap, pair.rows_overlap) == pytest.approx((1.0, 1.0))
    assert pair.cosine == pytest.approx(2 / math.sqrt(5))


def test_pairs_of_three_parents_where_one_lacks_a_module(tmp_path):
    found = report(tmp_path, {"x": [[1.0]]}, {"x": [[-1.0]], "y": [[1.0]]}, {"y": [[1.0]], "x": [[1.0]]})

    x, y = found.per_module
    assert [pair.parents for pair in x.pairs] == [(0, 1), (0, 2), (1, 2)]
    assert [pair.sign_conflict for pair in x.pairs] == [1.0, 0.0, 1.0]
    assert [(pair.parents, pair.sign_conflict) for pair in y.pairs] == [((1, 2), 0.0)]
    assert [(pair.parents, pair.sign_conflict) for pair in found.pairs] == [
        ((0, 1), 1.0),
        ((0, 2), 0.0),
        ((1, 2), pytest.approx(0.5)),
    ]
    assert found.pairs[2].cosine == pytest.approx(0.0, abs=1e-15)  # (-1, 1) and (1, 1)


@pytest.mark.parametrize(("big", "few", "opposed"), [(1.0, -1.0, 4), (-1.0, 1.0, 262_144)])
def test_a_sampled_module_counts_for_all_its_elements(tmp_path, big, few, opposed):
    """512x512 beside 1x4, one of which opposes: 4 or 262,144 of 262,148, from 65,536 + 4 looked at."""
    ones = {"B": torch.ones(512, 1), "A": torch.ones(1, 512)}
    other = {"B": torch.full((512, 1), big), "A": torch.ones(1, 512)}

    found = report(tmp_path, {"big": ones, "few": [[1.0] * 4]}, {"big": other, "few": [[few] * 4]})

    (pair,) = found.pairs
    assert (pair.sign_conflict, pair.elements) == (pytest.approx(opposed / 262_148, rel=1e-9), 65_540)


def test_small_matrices_are_looked_at_whole_and_large_ones_on_a_grid():
    assert places(2, 3) == ([0, 1], [0, 1, 2])
    rows, columns = places(4096, 4096)
    assert (len(rows), rows[:3], rows[-1]) == (256, [8, 24, 40], 4088)
    assert rows == columns


@pytest.mark.parametrize("shape", [(256, 256), (1, 65_536), (65_536, 1), (100, 655)])
def test_no_more_elements_than_the_sample_has_are_all_looked_at(shape):
    rows, columns = places(*shape)

    assert (rows, columns) == (list(range(shape[0])), list(range(shape[1])))


@pytest.mark.parametrize("shape", [(3, 100_000), (100_000, 3), (300, 300), (14_336, 4096), (1, 10**7)])
def test_the_sample_is_nearly_full_and_never_larger(shape):
    rows, columns = places(*shape)

    assert MOST // 2 < len(rows) * len(columns) <= MOST
    assert len(set(rows)) == len(rows)
    assert len(set(columns)) == len(columns)
    assert max(rows) < shape[0]
    assert max(columns) < shape[1]


def test_pair_numbers_equal_dense_ones(tmp_path):
    """Overlaps from dense bases of the ΔW, sign conflict over every element; ranks 4 and scaling 9/4."""
    folders = [
        write_adapter(tmp_path / str(seed), linear("m", inputs=16, outputs=12, rank=4, seed=seed)) for seed in (1, 2)
    ]

    (pair,) = merge([Source(folder, 0.5) for folder in folders], method="svd", out=tmp_path / "out").pairs

    one, other = (deltas(folder)["m"] for folder in folders)
    (left, _, right), (left_2, _, right_2) = np.linalg.svd(one), np.linalg.svd(other)
    assert pair.columns_overlap == pytest.approx(np.linalg.norm(left[:, :4].T @ left_2[:, :4]) ** 2 / 4, rel=1e-9)
    assert pair.rows_overlap == pytest.approx(np.linalg.norm(right[:4] @ right_2[:4].T) ** 2 / 4, rel=1e-9)
    assert pair.sign_conflict == pytest.approx(float((one * other < 0).mean()))
    norms = np.linalg.norm(one) * np.linalg.norm(other)
    assert pair.cosine == pytest.approx(float((one * other).sum() / norms), rel=1e-9)


def test_a_repeated_parent_is_its_own_twin(tmp_path):
    """The stack is rank-deficient then; overlaps stay 1."""
    parent = {"m": [[1.0, 2.0, 0.0], [0.0, 1.0, 0.5], [1.0, 1.0, 1.0], [2.0, 0.0, 1.0]]}

    (pair,) = report(tmp_path, parent, parent).pairs

    assert (pair.columns_overlap, pair.rows_overlap, pair.cosine, pair.sign_conflict) == pytest.approx((1, 1, 1, 0))


def test_spaces_of_a_very_wide_parent_are_not_measured(monkeypatch):
    monkeypatch.setattr(pairs, "WIDEST", 2)
    narrow, wide = (Part(torch.eye(4)[:, :rank], torch.eye(4)[:rank], 1.0) for rank in (2, 3))

    found = Parts([narrow, wide]).pairs[0, 1]

    assert (found.columns_most, found.rows_most) == (0, 0)
    assert (found.inner, found.both, found.opposed) == (2.0, 2, 0)


def save_base(folder, **weights):
    folder.mkdir()
    save_file({f"{name}.weight": tensor for name, tensor in weights.items()}, folder / "model.safetensors")
    return folder


def test_elements_of_the_base_that_its_dtype_leaves_as_they_are(tmp_path):
    """bfloat16 has 8 bits: from 1 the next number is 1 + 1/128, so 1/512 is lost and 1/64 is not; 0 takes both.

    W = [[1, 0], [1, 1]] and D = [[1/512, 1/512], [1/64, 0]]: two of four stay as they are.
    """
    base = save_base(tmp_path / "base", m=torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=torch.bfloat16))

    found = report(tmp_path, {"m": [[1 / 512, 1 / 512], [1 / 64, 0.0]]}, method="cat", base=base)

    assert (found.swallowed_by_base, found.per_module[0].swallowed_by_base) == (0.5, 0.5)


def test_a_base_that_stores_its_weight_the_other_way_round(tmp_path):
    """W as (in, out): only the transpose meets D's one large element with the zero."""
    W = torch.ones(2, 3, dtype=torch.bfloat16)
    W[0, 2] = 0.0
    delta = [[1 / 512, 1 / 512], [1 / 512, 1 / 512], [1 / 512, 1 / 512]]

    found = report(tmp_path, {"m": delta}, method="cat", base=save_base(tmp_path / "base", m=W))

    assert found.swallowed_by_base == pytest.approx(5 / 6)


def test_modules_swallow_by_their_elements(tmp_path):
    """512x512 of float32, where nothing is lost, beside 1x4 of which all is; of what the base lacks nothing is said."""
    ones = {"B": torch.ones(512, 1), "A": torch.ones(1, 512)}
    base = save_base(tmp_path / "base", big=torch.ones(512, 512), few=torch.ones(1, 4, dtype=torch.bfloat16))

    found = report(tmp_path, {"big": ones, "few": [[1e-4] * 4], "gone": [[1.0]]}, method="cat", base=base)

    assert [module.swallowed_by_base for module in found.per_module] == [0.0, 1.0, None]
    assert found.swallowed_by_base == pytest.approx(4 / 262_148)


def test_without_a_base_nothing_is_said_of_it(tmp_path):
    assert report(tmp_path, {"m": [[1.0]]}).swallowed_by_base is None
