"""Thresholds are exact, whatever the sample said."""

import math

import numpy as np
import pytest
import torch

from engine.errors import RefusedError
from engine.merge import Options, Part, RankRule, Source, merge, plan
from engine.merge.dropping import thresholds
from engine.merge.dropping.survey import with_thresholds
from engine.merge.dropping.thresholds import BINS, LARGEST, Bracket, bracket, count, counted, sample, search, threshold
from engine.merge.matrices.factors import FactorFile
from tests.engine.merge.elementwise import disjoint_mean, part, trimmed
from tests.engine.merge.factories import conv, deltas, distance, linear, write_adapter


def whole_numbers(rows, columns, seed, rank=3):
    """A part whose products are small whole numbers, so that float32 holds them exactly and many tie."""
    generator = torch.Generator().manual_seed(seed)
    B, A = (torch.randint(-4, 5, shape, generator=generator).float() for shape in ((rows, rank), (rank, columns)))
    return Part(B, A, 1.0)


def largest(matrix, kept):
    return float(np.sort(np.abs(matrix), axis=None)[::-1][kept - 1])


@pytest.fixture(params=["sorted", "counted"])
def route(request, monkeypatch):
    """Small modules are sorted, larger ones counted; "counted" counts the small ones too."""
    if request.param == "counted":
        monkeypatch.setattr(thresholds, "WHOLE", 0)


@pytest.mark.usefixtures("route")
@pytest.mark.parametrize("density", [0.001, 0.05, 0.2, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("shape", [(40, 30), (1, 9), (300, 700)])
def test_threshold_is_what_sorting_gives(density, shape):
    one = whole_numbers(*shape, seed=1)
    matrix = (one.B.numpy().astype(int)) @ (one.A.numpy().astype(int))

    assert threshold(one, density) == largest(matrix, count(matrix.size, density))


@pytest.mark.usefixtures("route")
def test_threshold_of_distinct_values_keeps_exactly_the_share():
    one = part(200, 300, 5, 1)
    values = one.block(0, 200).abs()

    assert int((values >= threshold(one, 0.3)).sum()) == 18_000


STARTS = {
    "everything": Bracket(0, LARGEST),
    "zero alone": Bracket(0, 0),
    "infinity alone": Bracket(LARGEST, LARGEST),
    "far below": Bracket(1, 1000),
    "far above": Bracket(LARGEST - 1000, LARGEST - 1),
    "one alone": Bracket(0x3F800000, 0x3F800000),
    "one to two": Bracket(0x3F800000, 0x40000000),
}


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
@pytest.mark.parametrize("kept", [1, 7, 100, 399, 400])
def test_a_wrong_bracket_costs_passes_and_nothing_else(start, kept):
    one = part(20, 20, 3, 4)
    passes = []

    found = search(start, kept, lambda within: passes.append(within) or counted(one, within))

    assert found == largest(one.block(0, 20).numpy(), kept)
    assert len(passes) <= 4


def test_a_sample_mostly_spares_the_second_pass():
    """A million elements: the bracket holds the threshold, and has no more patterns than bins."""
    one = part(1000, 1000, 8, 2)
    within = bracket(sample(one), None, 0.2)
    least = torch.tensor(threshold(one, 0.2)).view(torch.int32).item()

    assert within.low <= least <= within.high
    assert within.high - within.low < BINS
    assert 0 < int(counted(one, within).inside.sum()) < 40_000


def test_counts_are_bounded_in_memory():
    assert Bracket(0, LARGEST).bins <= BINS
    assert Bracket(5, 5).bins == 1


def three_modules(folder, seed):
    """Modules whose ΔW differ in size by orders, one of them a grouped convolution."""
    tensors = linear("a", inputs=20, outputs=12, rank=4, seed=seed) | linear(
        "b", inputs=6, outputs=9, rank=4, seed=seed + 1
    )
    tensors |= conv("c", inputs=4, outputs=6, kernel=(3,), rank=4, seed=seed + 2, groups=2)
    tensors["base_model.model.b.lora_B.weight"] *= 5
    return write_adapter(folder, tensors)


def expected_thresholds(folders, density):
    whole = [np.concatenate([matrix.ravel() for matrix in deltas(folder).values()]) for folder in folders]
    return [largest(values, int(density * values.size)) for values in whole]


@pytest.mark.parametrize("jobs", [1, 2])
def test_global_thresholds_are_those_of_the_whole_parent(tmp_path, jobs):
    folders = [three_modules(tmp_path / "a", 1), three_modules(tmp_path / "b", 9)]
    planned = plan([Source(folder, 1.0) for folder in folders], method="ties", options=Options(density=0.3))
    with FactorFile(planned.parents[0]) as one, FactorFile(planned.parents[1]) as two:
        found = with_thresholds(planned, [one, two], jobs)

    assert found.thresholds == pytest.approx(expected_thresholds(folders, 0.3), rel=1e-6)


def test_trimming_over_the_parent_keeps_more_of_the_larger_modules(tmp_path):
    """The merge as a whole against its definition; b's ΔW is five times the others'."""
    folders = [three_modules(tmp_path / "a", 1), three_modules(tmp_path / "b", 9)]
    sources = [Source(folder, weight) for folder, weight in zip(folders, (0.6, -0.4), strict=True)]

    merge(sources, method="ties", options=Options(density=0.3), rule=RankRule("max"), out=tmp_path / "out")

    whole = [deltas(folder) for folder in folders]
    found = deltas(tmp_path / "out")
    least = expected_thresholds(folders, 0.3)
    for name in ("a", "b", "c"):
        kept = [
            np.where(np.abs(one[name]) >= low * (1 - 1e-6), one[name], 0.0)
            for one, low in zip(whole, least, strict=True)
        ]
        assert distance(found[name], disjoint_mean(kept, (0.6, -0.4))) < 2e-6
    assert distance(found["a"], disjoint_mean([trimmed(one["a"], 0.3) for one in whole], (0.6, -0.4))) > 0.1


def test_a_parent_of_zeros_has_the_threshold_zero(tmp_path):
    tensors = linear("a", inputs=8, outputs=6, rank=2, seed=1)
    tensors["base_model.model.a.lora_B.weight"].zero_()
    folder = write_adapter(tmp_path / "a", tensors, r=2)
    planned = plan([Source(folder, 1.0)], method="magnitude_prune")
    with FactorFile(planned.parents[0]) as file:
        assert with_thresholds(planned, [file], 1).thresholds == (0.0,)

    report = merge([Source(folder, 1.0)], method="magnitude_prune", out=tmp_path / "out")

    assert (report.norm, report.energy_kept, report.relative_error) == (0.0, 1.0, 0.0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("method", ["ties", "magnitude_prune", "dare_linear", "dare_ties"])
@pytest.mark.parametrize("weight", [1.0, 0.0])
def test_values_that_are_not_finite_are_refused_wherever_they_lie(tmp_path, value, method, weight):
    """Even where a mask or a threshold might have dropped them."""
    tensors = linear("a", inputs=8, outputs=6, rank=2, seed=1)
    tensors["base_model.model.a.lora_A.weight"][1, 5] = value
    folders = [write_adapter(tmp_path / "bad", tensors, r=2)]
    folders.append(write_adapter(tmp_path / "good", linear("a", inputs=8, outputs=6, rank=2, seed=2), r=2))

    with pytest.raises(RefusedError, match="NaN, an infinity"):
        merge([Source(folders[0], weight), Source(folders[1], 1.0)], method=method, out=tmp_path / "out")

    assert not (tmp_path / "out").exists()
