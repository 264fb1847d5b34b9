"""slerp, model_stock and resize against the papers' formulas on dense ΔW in float64 numpy."""

import itertools
import json
import math

import numpy as np
import pytest
import torch

from engine.errors import OptionError
from engine.merge import Part, RankRule, Source, apply_grid, merge, plan
from engine.merge.given.weights import Weight, WeightRule
from tests.engine.merge.combining import found, target
from tests.engine.merge.factories import best, conv, deltas, distance, linear, normal, write_adapter

FP32 = 3e-7


def part(seed, *, rows=14, columns=11, rank=3, scaling=2.25):
    return Part(normal(seed, rows, rank), normal(seed + 50, rank, columns), scaling)


def dense(one):
    return one.scaling * (one.B.double() @ one.A.double()).numpy()


def slerp_dense(one, other, t):
    """Shoemake's formula on the flat matrices, which keep their lengths."""
    cosine = np.sum(one * other) / (np.linalg.norm(one) * np.linalg.norm(other))
    if abs(cosine) > 0.9995:
        return (1 - t) * one + t * other
    angle = np.arccos(cosine)
    return (np.sin((1 - t) * angle) * one + np.sin(t * angle) * other) / np.sin(angle)


def stock_dense(matrices):
    """Jang et al., equation 7 for N models, the base model's weights at zero; never past the base model."""
    count = len(matrices)
    cosines = [
        np.sum(x * y) / (np.linalg.norm(x) * np.linalg.norm(y)) if x.any() and y.any() else 0.0
        for x, y in itertools.combinations(matrices, 2)
    ]
    cosine = np.mean(cosines)
    if cosine <= 0:
        return np.zeros_like(matrices[0])
    return count * cosine / (1 + (count - 1) * cosine) * sum(matrices) / count


def leaning(seed, *, toward=1, share=1.0, rank=3):
    """A parent whose ΔW has a positive cosine with that of the seed `toward`."""
    own, shared = part(seed, rank=rank), part(toward, rank=rank)
    return Part(torch.cat([own.B, shared.B], 1), torch.cat([own.A, share * shared.A], 0), 1.5)


@pytest.mark.parametrize("t", [0.0, 0.1, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_slerp_is_the_formula(t, sign):
    """Acute and obtuse angles."""
    one, other = part(1), leaning(2, share=sign, rank=2)

    result = found("slerp", [one, other], [3 * (1 - t), 3 * t])

    assert distance(result, slerp_dense(dense(one), dense(other), t)) < 1e-13


def test_slerp_by_hand():
    """Lengths 2 and 4 at a right angle: half way, sin 45° of each."""
    one = Part(torch.tensor([[2.0], [0.0]]), torch.tensor([[1.0, 0.0]]), 1.0)
    other = Part(torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0, 2.0]]), 2.0)

    result = found("slerp", [one, other], [1.0, 1.0], scale=3.0)

    np.testing.assert_allclose(result, 3 * math.sqrt(0.5) * np.diag([2.0, 4.0]), atol=1e-14)


def test_slerp_ends_are_the_parents():
    one, other = part(1), part(2)

    assert distance(found("slerp", [one, other], [1.0, 0.0]), dense(one)) < 1e-13
    assert distance(found("slerp", [one, other], [0.0, 7.0]), dense(other)) < 1e-13


def test_slerp_of_a_parent_with_itself_is_that_parent():
    assert distance(found("slerp", [part(1), part(1)], [0.3, 0.7]), dense(part(1))) < 1e-13


def test_slerp_of_opposites_is_on_the_chord():
    """At 180° every arc is as short; the chord goes through zero: 0.75 D - 0.25 D."""
    one = part(1)
    opposite = Part(one.B, one.A, -one.scaling)

    assert distance(found("slerp", [one, opposite], [0.75, 0.25]), 0.5 * dense(one)) < 1e-13


@pytest.mark.parametrize("cosine", [0.9996, 0.9994])
def test_slerp_takes_the_chord_from_the_documented_cosine(cosine):
    """Lengths 1 and 1: on the arc half way is 1 long, on the chord shorter."""
    sine = math.sqrt(1 - cosine**2)
    one = Part(torch.eye(2).double()[:, :1], torch.tensor([[1.0, 0.0]], dtype=torch.float64), 1.0)
    other = Part(torch.eye(2).double()[:, :1], torch.tensor([[cosine, sine]], dtype=torch.float64), 1.0)

    length = np.linalg.norm(found("slerp", [one, other], [1.0, 1.0]))

    assert length == pytest.approx(1.0 if cosine < 0.9995 else math.sqrt((1 + cosine) / 2), abs=1e-12)


def test_slerp_with_a_zero_parent_is_its_share_of_the_other():
    one, zero = part(1), Part(torch.zeros(14, 3), normal(9, 3, 11), 2.0)

    assert distance(found("slerp", [one, zero], [0.6, 0.2]), 0.75 * dense(one)) < 1e-13
    assert not found("slerp", [zero, zero], [0.6, 0.2]).any()


def test_slerp_without_a_parent_is_as_if_it_were_zero():
    assert distance(found("slerp", [part(1)], [0.6], absent=[0.2]), 0.75 * dense(part(1))) < 1e-13


def test_slerp_does_not_see_the_size_of_weights_nor_the_order_of_parents():
    one, other = part(1), part(2, rank=5)
    expected = found("slerp", [one, other], [0.2, 0.6])

    assert distance(found("slerp", [one, other], [1.0, 3.0]), expected) < 1e-13
    assert distance(found("slerp", [other, one], [0.6, 0.2]), expected) < 1e-13


@pytest.mark.parametrize("count", [2, 3, 5])
def test_model_stock_is_the_formula(count):
    parts = [leaning(seed) for seed in range(2, 2 + count)]

    assert distance(found("model_stock", parts, [1.0] * count), stock_dense([dense(one) for one in parts])) < 1e-13


def test_model_stock_by_hand():
    """Cosine 1/2 between [1, 0] and [1, √3]/2: t = 2·½/(1 + ½) = 2/3, a third of each."""
    one = Part(torch.eye(1).double(), torch.tensor([[1.0, 0.0]], dtype=torch.float64), 1.0)
    other = Part(torch.eye(1).double(), torch.tensor([[0.5, math.sqrt(0.75)]], dtype=torch.float64), 1.0)

    result = found("model_stock", [one, other], [0.5, 0.5])

    np.testing.assert_allclose(result, [[0.5, math.sqrt(0.75) / 3]], rtol=1e-14)


def test_model_stock_of_equal_parents_is_that_parent():
    """Nothing is disagreed about: t = 1."""
    assert distance(found("model_stock", [part(1)] * 3, [1.0] * 3), dense(part(1))) < 1e-13


@pytest.mark.parametrize("share", [-1.0, -0.2])
def test_model_stock_of_parents_at_odds_is_the_base_model(share):
    one = part(1)
    other = Part(one.B, share * one.A, one.scaling)

    assert not found("model_stock", [one, other], [1.0, 1.0]).any()


def test_model_stock_counts_zero_and_absent_parents_alike():
    """Three parents, one of them zero: two of six ordered pairs have a cosine."""
    one, other, zero = leaning(2), leaning(3), Part(torch.zeros(14, 3), normal(9, 3, 11), 2.0)
    expected = stock_dense([dense(one), dense(other), np.zeros((14, 11))])

    assert expected.any()
    assert distance(found("model_stock", [one, other, zero], [1.0] * 3), expected) < 1e-13
    assert distance(found("model_stock", [one, other], [1.0] * 2, absent=[1.0]), expected) < 1e-13


def test_model_stock_does_not_see_the_size_of_weights_nor_the_order_of_parents():
    parts = [leaning(2), leaning(3, rank=5), leaning(4)]
    expected = found("model_stock", parts, [1.0] * 3)

    assert distance(found("model_stock", parts, [0.2] * 3), expected) == 0
    assert distance(found("model_stock", parts[::-1], [1.0] * 3), expected) < 1e-13


@pytest.mark.parametrize("method", ["slerp", "model_stock"])
@pytest.mark.parametrize(("rows", "columns"), [(4, 11), (11, 4), (3, 3)])
def test_more_ranks_than_rows_or_columns(method, rows, columns):
    parts = [part(seed, rows=rows, columns=columns) for seed in (1, 2)]
    matrices = [dense(one) for one in parts]
    expected = slerp_dense(*matrices, 0.5) if method == "slerp" else stock_dense(matrices)

    assert distance(found(method, parts, [1.0, 1.0]), expected) < 1e-12


@pytest.mark.parametrize("method", ["slerp", "model_stock"])
def test_a_rank_cut_is_the_best_of_its_rank(method):
    parts = [leaning(2), leaning(3)]
    matrices = [dense(one) for one in parts]
    expected = slerp_dense(*matrices, 0.5) if method == "slerp" else stock_dense(matrices)

    B, A = target(method, parts, [1.0, 1.0]).factors(2)

    assert distance((B @ A).numpy(), best(expected, 2)) < 1e-12


def test_products_that_overflow_raise():
    huge = Part(torch.full((3, 1), 1e100, dtype=torch.float64), torch.full((1, 3), 1e100, dtype=torch.float64), 1.0)

    with pytest.raises(FloatingPointError):
        target("model_stock", [huge, huge], [1.0, 1.0])


def adapters(folder):
    """Two parents: a Linear and a grouped convolution in both, a Linear in one alone."""
    made = []
    for seed, rank in ((1, 4), (2, 2)):
        tensors = linear("both", inputs=16, outputs=12, rank=rank, seed=7)
        tensors |= linear(f"only{seed}", inputs=10, outputs=9, rank=rank, seed=seed + 40)
        tensors |= conv("conv", inputs=4, outputs=6, kernel=(3, 3), rank=rank, seed=seed + 20, groups=2)
        made.append(write_adapter(folder / f"parent{seed}", tensors, r=rank))
    return made


def test_slerp_from_file_to_file(tmp_path):
    """Weights 1 and 3: a module alone gets its quarter or three; every group turns by its own angle."""
    first, second = adapters(tmp_path)

    merge([Source(first, 1.0), Source(second, 3.0)], method="slerp", rule=RankRule("max"), out=tmp_path / "out")

    one, two, out = deltas(first), deltas(second), deltas(tmp_path / "out")
    halves = zip(np.split(one["conv"], 2), np.split(two["conv"], 2), strict=True)
    assert distance(out["both"], slerp_dense(one["both"], two["both"], 0.75)) < FP32
    assert distance(out["conv"], np.concatenate([slerp_dense(*half, 0.75) for half in halves])) < FP32
    assert distance(out["only1"], 0.25 * one["only1"]) < FP32
    assert distance(out["only2"], 0.75 * two["only2"]) < FP32


def test_model_stock_from_file_to_file(tmp_path):
    """A module that one parent alone has agrees with nobody: it stays the base model's."""
    first, second = adapters(tmp_path)

    merge([Source(first, 1.0), Source(second, 1.0)], method="model_stock", rule=RankRule("max"), out=tmp_path / "out")

    one, two, out = deltas(first), deltas(second), deltas(tmp_path / "out")
    assert distance(out["both"], stock_dense([one["both"], two["both"]])) < FP32
    assert not out["only1"].any()


@pytest.mark.parametrize("weights", [(1.0, -1.0), (0.0, 0.0), (-1.0, -1.0)])
def test_slerp_refuses_weights_without_a_place_on_the_arc(tmp_path, weights):
    sources = [Source(folder, weight) for folder, weight in zip(adapters(tmp_path), weights, strict=True)]

    with pytest.raises(OptionError, match=r"slerp weights .*: expected 0 or more each, and not all 0"):
        plan(sources, method="slerp")


def test_weights_of_single_modules_are_checked_too(tmp_path):
    first, second = adapters(tmp_path)

    with pytest.raises(OptionError, match="slerp weights 1 and -1"):
        plan([Source(first, 1.0), Source(second, 1.0, (WeightRule(-1.0, "conv"),))], method="slerp")


@pytest.mark.parametrize("weights", [(1.0, 0.5), (0.0, 0.0), (-1.0, -1.0)])
def test_model_stock_refuses_weights_of_its_own(tmp_path, weights):
    sources = [Source(folder, weight) for folder, weight in zip(adapters(tmp_path), weights, strict=True)]

    with pytest.raises(OptionError, match=r"model_stock weights .*: expected equal ones above 0"):
        plan(sources, method="model_stock")


def test_rows_of_a_grid_are_checked_before_anything_is_made(tmp_path):
    planned = plan([Source(folder, 1.0) for folder in adapters(tmp_path)], method="slerp")

    with pytest.raises(OptionError, match="slerp weights"):
        apply_grid(
            planned, [[Weight(1.0), Weight(1.0)], [Weight(1.0), Weight(-2.0)]], [tmp_path / "one", tmp_path / "two"]
        )

    assert not (tmp_path / "one").exists()


@pytest.mark.parametrize(
    ("method", "count", "message"),
    [
        ("slerp", 1, "slerp merges 2 adapters, not 1"),
        ("slerp", 3, "slerp merges 2 adapters, not 3"),
        ("model_stock", 1, "model_stock merges at least 2 adapters, not 1"),
        ("resize", 2, "resize merges 1 adapter, not 2"),
    ],
)
def test_numbers_of_parents(tmp_path, method, count, message):
    folder = adapters(tmp_path)[0]

    with pytest.raises(OptionError, match=message):
        plan([Source(folder, 1.0)] * count, method=method)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_resize_is_the_best_of_its_rank(tmp_path, rank):
    folder = write_adapter(tmp_path / "a", linear("m", inputs=16, outputs=12, rank=4, seed=1))

    merge([Source(folder, 1.0)], method="resize", rule=RankRule(rank), out=tmp_path / "out")

    assert json.loads((tmp_path / "out/adapter_config.json").read_text())["r"] == rank
    assert distance(deltas(tmp_path / "out")["m"], best(deltas(folder)["m"], rank)) < FP32


@pytest.mark.parametrize(
    "rule", [RankRule(), RankRule("max"), RankRule(9), RankRule(energy=1.0), RankRule(budget=9999)]
)
def test_resize_with_room_for_all_is_the_adapter(tmp_path, rule):
    folder = write_adapter(tmp_path / "a", linear("m", inputs=16, outputs=12, rank=4, seed=1))

    merge([Source(folder, 1.0)], method="resize", rule=rule, out=tmp_path / "out")

    assert distance(deltas(tmp_path / "out")["m"], deltas(folder)["m"]) < FP32


@pytest.mark.parametrize("method", ["linear", "svd"])
def test_weights_one_and_minus_one_subtract(tmp_path, method):
    first, second = adapters(tmp_path)
    rule = RankRule("max") if method == "svd" else RankRule()

    merge([Source(first, 1.0), Source(second, -1.0)], method=method, rule=rule, out=tmp_path / "out")

    one, two, out = deltas(first), deltas(second), deltas(tmp_path / "out")
    assert distance(out["both"], one["both"] - two["both"]) < FP32
    assert distance(out["conv"], one["conv"] - two["conv"]) < FP32
    assert distance(out["only2"], -two["only2"]) < FP32


@pytest.mark.parametrize("method", ["linear", "svd", "resize"])
def test_weight_minus_one_negates(tmp_path, method):
    folder = adapters(tmp_path)[0]

    merge([Source(folder, -1.0)], method=method, out=tmp_path / "out")

    one, out = deltas(folder), deltas(tmp_path / "out")
    assert max(distance(out[name], -one[name]) for name in one) < FP32


def test_what_was_added_can_be_taken_away(tmp_path):
    """(D_0 + D_1) - D_1 = D_0, file to file."""
    first, second = adapters(tmp_path)
    merge([Source(first, 1.0), Source(second, 1.0)], method="linear", out=tmp_path / "sum")

    merge([Source(tmp_path / "sum", 1.0), Source(second, -1.0)], method="svd", rule=RankRule(4), out=tmp_path / "back")

    one, back = deltas(first), deltas(tmp_path / "back")
    assert max(distance(back[name], one[name]) for name in one) < 2 * FP32
