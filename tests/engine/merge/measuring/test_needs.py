"""Which rank keeps which share, and how large the file would be: by hand on diagonal matrices."""

import json
from dataclasses import replace

import pytest
import torch

from engine.format.adapter import read_adapter
from engine.merge import RankRule, Source, merge
from engine.merge.measuring.needs import SHARES, needs
from engine.merge.planning import plan
from tests.engine.merge.factories import PREFIX, conv, write_adapter


def diagonal(folder, **modules):
    tensors = {}
    for name, entries in modules.items():
        tensors[f"{PREFIX}{name}.lora_A.weight"] = torch.eye(len(entries))
        tensors[f"{PREFIX}{name}.lora_B.weight"] = torch.diag(torch.tensor(entries))
    ranks = {name: len(entries) for name, entries in modules.items()}
    return write_adapter(folder, tensors, r=1, lora_alpha=1, rank_pattern=ranks, alpha_pattern=ranks)


def rows(tmp_path, folder, **options):
    found = merge([Source(folder, 1.0)], method="svd", out=tmp_path / "out", **options)
    return {need.share: need for need in found.ranks_for}


def test_largest_and_median_rank_of_each_share(tmp_path):
    """Energies 81 + 16 + 3 of x: 90 % takes two, 99 % three; y needs one, z two of equal size, whatever is asked."""
    folder = diagonal(tmp_path / "a", x=[9.0, 4.0, 3.0**0.5], y=[5.0, 0.0, 0.0], z=[1.0, 1.0, 0.0])

    found = rows(tmp_path, folder)

    assert tuple(found) == SHARES == (0.9, 0.95, 0.99, 0.999)
    assert [(need.largest, need.median) for need in found.values()] == [(2, 2), (2, 2), (3, 2), (3, 2)]
    assert {(need.more_than, need.unknown) for need in found.values()} == {(0, 0)}


def test_a_cut_result_still_knows_the_whole_spectrum(tmp_path):
    folder = diagonal(tmp_path / "a", x=[9.0, 4.0, 3.0**0.5])

    found = rows(tmp_path, folder, rule=RankRule(1))

    assert [need.largest for need in found.values()] == [2, 2, 3, 3]


def test_the_size_is_that_of_the_file_at_those_ranks(tmp_path):
    """At the ranks of 99.9 % the estimate is the very file that a merge with them writes, but for its header's digits."""
    folder = diagonal(tmp_path / "a", x=[9.0, 4.0, 3.0**0.5], y=[5.0, 1e-3, 0.0], z=[1.0, 1.0, 0.0])
    estimate = rows(tmp_path, folder)[0.999].size

    merge([Source(folder, 1.0)], method="svd", rule=RankRule(energy=0.999), out=tmp_path / "cut")

    assert estimate == pytest.approx((tmp_path / "cut" / "adapter_model.safetensors").stat().st_size, abs=8)


def test_a_grouped_convolution_counts_as_it_is(tmp_path):
    folder = write_adapter(
        tmp_path / "a", conv("c", inputs=4, outputs=6, kernel=(3,), rank=4, seed=1, groups=2), r=4, lora_alpha=4
    )

    found = rows(tmp_path, folder)[0.9]

    assert (found.largest, found.median, found.unknown) == (None, None, 1)
    assert found.size == (tmp_path / "out" / "adapter_model.safetensors").stat().st_size


def test_a_zero_module_keeps_one_rank(tmp_path):
    assert rows(tmp_path, diagonal(tmp_path / "a", x=[0.0, 0.0]))[0.9].largest == 1


def test_modules_that_need_more_than_is_known_are_counted(tmp_path):
    """Of energies 80 + 15 + 5 only the first two are known: they hold 95 %, not 99 %."""
    folder = diagonal(tmp_path / "a", x=[80.0**0.5, 15.0**0.5, 5.0**0.5])
    report = merge([Source(folder, 1.0)], method="svd", out=tmp_path / "out")
    (module,) = report.per_module
    known = replace(module, spectrum=module.spectrum[:2])

    found = {need.share: need for need in needs(plan([Source(folder, 1.0)], method="svd"), [known])}

    assert [(found[share].largest, found[share].more_than) for share in SHARES] == [(2, 0), (2, 0), (2, 1), (2, 1)]


def test_the_rows_are_json(tmp_path):
    report = merge([Source(diagonal(tmp_path / "a", x=[3.0]), 1.0)], method="svd", out=tmp_path / "out")

    (first, *_) = json.loads(json.dumps(report.as_json(), allow_nan=False))["ranks_for"]

    assert first.keys() == {"share", "largest", "median", "size", "more_than", "unknown"}
    assert read_adapter(tmp_path / "out").rank == first["largest"] == 1
