"""Rank rules by hand, and what they do to a real merge."""

import itertools
import json

import pytest
import torch

from engine.errors import OptionError
from engine.format.numbers.spectra import rank_for
from engine.merge import RankRule, Source, merge
from engine.merge.given.ranks import Spectrum, ranks
from tests.engine.merge.factories import PREFIX, linear, write_adapter


def spectrum(*levels, energy=None, step=1, cost=10):
    return Spectrum(levels, sum(levels) if energy is None else energy, step, cost)


@pytest.mark.parametrize(
    ("share", "rank"),
    [(0.5, 1), (0.8, 1), (0.80001, 2), (0.95, 2), (0.951, 3), (1.0, 3)],
)
def test_energy_by_hand(share, rank):
    """Levels 80, 15 and 5 of 100."""
    assert rank_for((80.0, 15.0, 5.0), 100.0, share) == rank


def test_energy_that_is_not_there():
    """The known levels hold 95 of 100."""
    assert rank_for((80.0, 15.0), 100.0, 0.96) is None
    assert rank_for((80.0, 15.0), 100.0, 0.95) == 2


def test_zeros_need_no_rank():
    assert rank_for((0.0, 0.0), 0.0, 0.99) == 0
    assert rank_for((4.0, 0.0), 4.0, 1.0) == 1


def test_a_module_keeps_one_rank_at_least():
    assert ranks(RankRule(energy=0.9), {"m": spectrum(0.0, 0.0)}) == {"m": 1}


def test_steps_of_groups_are_whole():
    """Two groups: the first step holds 90 %, and is rank 2."""
    assert ranks(RankRule(energy=0.9), {"m": spectrum(9.0, 1.0, step=2)}) == {"m": 2}


def test_budget_takes_the_best_energy_for_a_byte():
    """Each keeps one step (40 bytes); of the 25 left, b's second (8 for 10) and a's second (6 for 10) are best."""
    spectra = {
        "a": spectrum(100.0, 6.0, 5.0),
        "b": spectrum(9.0, 8.0, 1.0),
        "c": spectrum(50.0, 7.0, cost=20),
    }
    assert ranks(RankRule(budget=40 + 25), spectra) == {"a": 2, "b": 2, "c": 1}


def test_budget_is_the_best_of_all_choices():
    """Against every choice of ranks, for costs that fill the budget exactly."""
    spectra = {"a": spectrum(9.0, 4.0, 1.0), "b": spectrum(7.0, 6.0, 0.5), "c": spectrum(3.0, 2.0, 1.9)}
    names = list(spectra)
    choices = [
        dict(zip(names, steps, strict=True))
        for steps in itertools.product((1, 2, 3), repeat=3)
        if 10 * sum(steps) <= 60
    ]
    best = max(choices, key=lambda choice: sum(sum(spectra[name].levels[:k]) for name, k in choice.items()))

    assert ranks(RankRule(budget=60), spectra) == best


def test_budget_leaves_the_fixed_bytes_alone():
    assert ranks(RankRule(budget=120), {"a": spectrum(9.0, 4.0, 1.0)}, fixed=100) == {"a": 2}


def test_budget_below_rank_one_names_what_is_needed():
    with pytest.raises(OptionError, match="budget 105: rank 1 in every module takes 120 bytes"):
        ranks(RankRule(budget=105), {"a": spectrum(9.0), "b": spectrum(9.0)}, fixed=100)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rank": 0}, "rank 0: expected 1 or more, or max"),
        ({"rank": 4, "energy": 0.5}, "exclude each other"),
        ({"energy": 0.0}, "energy 0.0: expected a share"),
        ({"energy": 1.01}, "energy 1.01"),
        ({"energy": float("nan")}, "energy nan"),
        ({"budget": 0}, "budget 0"),
    ],
)
def test_rules_that_say_nothing(given, message):
    with pytest.raises(OptionError, match=message):
        RankRule(**given)


def diagonal(folder, **modules):
    """ΔW of each module is the diagonal given, scaling 1."""
    tensors = {}
    for name, entries in modules.items():
        tensors[f"{PREFIX}{name}.lora_A.weight"] = torch.eye(4)
        tensors[f"{PREFIX}{name}.lora_B.weight"] = torch.diag(torch.tensor(entries))
    return write_adapter(folder, tensors, r=4, lora_alpha=4)


def test_energy_of_a_merge(tmp_path):
    """Squares 16, 4, 4, 1 of 25 and 1, 0, 0, 0 of 1: 80 % (20 of 25) takes two of x and one of y."""
    source = Source(diagonal(tmp_path / "a", x=[4.0, 2.0, 2.0, 1.0], y=[1.0, 0.0, 0.0, 0.0]), 1.0)

    report = merge([source], method="svd", rule=RankRule(energy=0.8), out=tmp_path / "out")

    config = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert [(module.name, module.rank) for module in report.per_module] == [("x", 2), ("y", 1)]
    assert (config["r"], config["rank_pattern"]) == (2, {"y": 1})
    assert report.per_module[0].energy_kept == pytest.approx(0.8)


@pytest.mark.parametrize("slack", [0, 100, 1000, 3000])
def test_budget_of_a_merge_is_the_files_size(tmp_path, slack):
    """As near below the budget as one more rank of the cheapest module allows, or everything kept."""
    tensors = linear("small", inputs=8, outputs=8, rank=4, seed=1) | linear(
        "large", inputs=64, outputs=40, rank=4, seed=2
    )
    source = Source(write_adapter(tmp_path / "a", tensors), 1.0)
    smallest = merge([source], method="svd", rule=RankRule(1), out=tmp_path / "one")
    budget = (tmp_path / "one/adapter_model.safetensors").stat().st_size + 64 + slack

    report = merge([source], method="svd", rule=RankRule(budget=budget), out=tmp_path / "out")

    size = (tmp_path / "out/adapter_model.safetensors").stat().st_size
    assert size <= budget
    assert budget - size < 64 * 4 * 2 + 128 or report.rank == 4
    assert report.energy_kept >= smallest.energy_kept
