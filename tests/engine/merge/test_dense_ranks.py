"""Rank rules where a module's spectrum is too long to be looked at whole."""

import json

import numpy as np
import pytest

from engine.merge import Options, RankRule, Source, merge
from engine.merge.given.ranks import Spectrum, ranks, searched
from tests.engine.merge.elementwise import disjoint_mean, trimmed
from tests.engine.merge.factories import deltas, linear, write_adapter


def module(*levels, missing=0.0):
    """A look at a module with these levels, which underestimates the last one that it sees by `missing`."""
    looks = []

    def look(steps):
        looks.append(steps)
        seen = list(levels[:steps])
        seen[-1] -= missing if steps < len(levels) else 0.0
        return Spectrum(seen, sum(levels), 1, 10)

    return look, looks


def test_twice_as_many_until_the_share_is_held():
    """Eight levels of 10, 20 % of the energy or 40 % or 80 % in the first two, four or eight of ten."""
    look, looks = module(*[10.0] * 10)

    found = searched(RankRule(energy=0.75), look, first=2, most=10)

    assert ranks(RankRule(energy=0.75), {"m": found}) == {"m": 8}
    assert looks == [2, 4, 8, 8]


def test_a_narrower_look_that_finds_less_takes_one_more():
    look, looks = module(*[10.0] * 10, missing=1.0)

    found = searched(RankRule(energy=0.6), look, first=10, most=10)

    assert ranks(RankRule(energy=0.6), {"m": found}) == {"m": 7}
    assert looks == [10, 6, 7]


def test_all_is_the_end():
    look, looks = module(*[10.0] * 5)

    found = searched(RankRule(energy=1.0), look, first=2, most=5)

    assert ranks(RankRule(energy=1.0), {"m": found}) == {"m": 5}
    assert looks[:3] == [2, 4, 5]


@pytest.mark.parametrize(("budget", "steps"), [(1000, 8), (50, 5), (5, 1)])
def test_a_budget_looks_no_further_than_it_could_reach(budget, steps):
    """Steps of 10 bytes; four times the first two at most."""
    look, looks = module(*[10.0] * 20)

    found = searched(RankRule(budget=budget), look, first=2, most=20)

    assert looks == [2, steps]
    assert len(found.levels) == steps


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    home = tmp_path_factory.mktemp("parents")
    return [write_adapter(home / str(seed), linear("m", inputs=70, outputs=64, rank=4, seed=seed)) for seed in (1, 2)]


def run(folders, out, rule, **options):
    sources = [Source(folder, 0.5) for folder in folders]
    return merge(sources, method="ties", rule=rule, options=Options(trim="tensor", **options), out=out)


@pytest.mark.parametrize("share", [0.5, 0.8, 0.99])
def test_energy_of_ties_is_the_dense_spectrums(folders, tmp_path, share):
    expected = disjoint_mean([trimmed(deltas(folder)["m"], 0.2) for folder in folders], (0.5, 0.5))
    held = np.cumsum(np.linalg.svd(expected, compute_uv=False) ** 2) / np.square(expected).sum()
    needed = int(np.argmax(held >= share)) + 1

    report = run(folders, tmp_path / "out", RankRule(energy=share))

    assert needed <= report.rank <= needed + 1
    assert report.energy_kept >= share


def test_a_budget_of_ties_is_kept(folders, tmp_path):
    run(folders, tmp_path / "out", RankRule(budget=6000))

    size = (tmp_path / "out" / "adapter_model.safetensors").stat().st_size
    assert 6000 - 4 * (70 + 64) < size <= 6000


def test_max_is_the_smaller_side_and_exact(folders, tmp_path):
    report = run(folders, tmp_path / "out", RankRule("max"))

    assert (report.rank, report.bound) == (64, None)
    assert report.relative_error < 1e-6


def test_the_bound_is_reported(folders, tmp_path):
    """A sketch of rank 4 of 64: the report has its bound, per module and the largest of all."""
    report = run(folders, tmp_path / "out", RankRule(4))

    expected = disjoint_mean([trimmed(deltas(folder)["m"], 0.2) for folder in folders], (0.5, 0.5))
    best = np.sqrt(np.square(np.linalg.svd(expected, compute_uv=False)[4:]).sum())
    assert report.bound is not None
    assert 1 <= report.bound < 1.3
    assert report.bound == report.per_module[0].bound == json.loads(json.dumps(report.as_json()))["bound"]
    assert report.truncation_error * np.linalg.norm(expected) <= report.bound * best
    assert report.truncation_error * np.linalg.norm(expected) == pytest.approx(best, rel=1e-3)
