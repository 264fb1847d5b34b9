"""Lineage that a catalog alone knows: twins under other names, a base that moved, a base of another commit."""

import json

import numpy as np
import pytest

from registry.findings.rulesets import MOVED
from tests.registries import factors, make_adapter, make_base

COMMIT, OTHER_COMMIT = "a" * 40, "b" * 40


def said(report, rule):
    return [finding for finding in report.findings if finding.rule == rule]


@pytest.fixture
def based(registry, tmp_path):
    registry.add_base(make_base(tmp_path / "base"), names=["team/base"])
    return registry


def scaled_otherwise(seed):
    """The same change with alpha halved and B doubled: other tensors, other config."""
    return {name: value * 2 if "lora_B" in name else value for name, value in factors(seed).items()}


def test_the_same_files_under_another_name_are_a_twin(based, tmp_path):
    based.push(make_adapter(tmp_path / "a"), "team/a")
    based.push(make_adapter(tmp_path / "a"), "other/b")

    (finding,) = said(based.check("other/b"), "version-twin")
    assert finding.severity == "info"
    assert finding.message == "expected an adapter of its own, found the same tensors in team/a@1"
    assert finding.fix == "adapters diff REF team/a@1"


def test_the_same_tensors_under_another_config_are_a_twin(based, tmp_path):
    based.push(make_adapter(tmp_path / "a"), "team/a")
    based.push(make_adapter(tmp_path / "b", revision=COMMIT), "team/b")

    assert "team/a@1" in said(based.check("team/b"), "version-twin")[0].message


def test_other_tensors_of_the_same_change_are_told_apart_from_twins(based, tmp_path):
    based.push(make_adapter(tmp_path / "a"), "team/a")
    based.push(make_adapter(tmp_path / "b", tensors=scaled_otherwise(0), lora_alpha=2), "team/b")
    report = based.check("team/b")

    assert said(report, "version-twin") == []
    (finding,) = said(report, "version-twin-delta")
    assert finding.message.endswith("found the same change of every module, by its norm, in team/a@1")


@pytest.mark.parametrize(
    "tensors",
    [
        {name: value * np.float32(1.00001) if "lora_B" in name else value for name, value in factors(0).items()},
        factors(1),
    ],
    ids=["a hundred-thousandth more", "another seed"],
)
def test_another_change_is_no_twin(based, tmp_path, tensors):
    based.push(make_adapter(tmp_path / "a"), "team/a")
    based.push(make_adapter(tmp_path / "b", tensors=tensors), "team/b")
    report = based.check("team/b")

    assert said(report, "version-twin") == said(report, "version-twin-delta") == []


def test_equal_totals_of_unequal_modules_are_no_twin(based, tmp_path):
    """Norms 3 and 4 against 4 and 3: 5 both, and no module alike."""

    def of(q, up):
        wanted = {"q_proj": q, "up_proj": up}
        tensors = {name: np.zeros_like(value) for name, value in factors(0).items()}
        for name, value in tensors.items():
            value[0, 0] = 1 if "lora_A" in name else wanted[name.split(".")[-3]] / 2  # the scaling is 2
        return tensors

    based.push(make_adapter(tmp_path / "a", tensors=of(3, 4)), "team/a")
    based.push(make_adapter(tmp_path / "b", tensors=of(4, 3)), "team/b")

    assert based.get("team/a").norm == based.get("team/b").norm == 5
    assert said(based.check("team/b"), "version-twin-delta") == []


def test_versions_of_one_name_and_deleted_ones_are_no_twins(based, tmp_path):
    based.push(make_adapter(tmp_path / "a"), "team/a")
    based.push(make_adapter(tmp_path / "b", revision=COMMIT), "team/a")
    based.push(make_adapter(tmp_path / "a"), "team/gone")
    based.remove("team/gone")

    assert said(based.check("team/a@1"), "version-twin") == []


def test_a_base_that_moved_is_told_with_both_digests(based, tmp_path):
    based.push(make_adapter(tmp_path / "a", revision=COMMIT), "team/a")
    then = based.base("team/base").fingerprint
    assert said(based.check("team/a"), "base-moved") == []
    based.add_base(make_base(tmp_path / "moved", 7), names=["team/base"])
    now = based.base("team/base").fingerprint

    (finding,) = said(based.check("team/a"), "base-moved")
    assert finding.severity == "warning"
    assert then in finding.message
    assert now in finding.message
    assert finding.fix == f"adapters impact --base {then} --to team/base"
    assert based.impact(base=then, to="team/base").looked_at == 1


def test_a_base_that_moves_makes_kept_answers_stale_and_all_are_asked_again(based, tmp_path):
    based.push(make_adapter(tmp_path / "a", revision=COMMIT), "team/a")
    based.check_all(for_engines=["vllm"])
    based.add_base(make_base(tmp_path / "moved", 7), names=["team/base"])
    assert {(one.question, one.stale) for one in based.get("team/a").checks} == {("checkin", True), ("vllm", True)}
    report = based.check_all(for_engines=["vllm"])

    assert len(said(report, "base-moved")) == 1
    assert {(one.question, one.status, one.stale) for one in based.get("team/a").checks} == {
        ("checkin", "warn", False), ("vllm", "pass", False),
    }  # fmt: skip
    assert all(one.stored for one in based.check_all(for_engines=["vllm"]).results)


def test_a_name_that_comes_back_to_its_base_moved_nowhere(based, tmp_path):
    based.push(make_adapter(tmp_path / "a"), "team/a")
    based.add_base(make_base(tmp_path / "moved", 7), names=["team/base"])
    based.add_base(make_base(tmp_path / "base"), names=["team/base"])

    assert said(based.check("team/a"), "base-moved") == []


@pytest.mark.parametrize(
    ("held", "wanted", "told"),
    [(COMMIT, OTHER_COMMIT, True), (COMMIT, COMMIT, False), (COMMIT, "main", False), (None, COMMIT, False)],
)
def test_a_base_of_another_commit_than_the_config_names_is_told(registry, tmp_path, held, wanted, told):
    registry.add_base(make_base(tmp_path / "base"), names=["team/base"], revision=held)
    registry.push(make_adapter(tmp_path / "a", revision=wanted), "team/a")
    found = said(registry.check("team/a"), "base-other-revision")

    assert bool(found) is told
    assert not told or (wanted in found[0].message and held in found[0].message and found[0].where == "revision")


def test_norms_that_are_measured_later_make_kept_answers_stale(based, tmp_path):
    """`base add --norms` gives `norm-large` something to compare with, so what was said before is out of date."""
    based.push(make_adapter(tmp_path / "a", revision=COMMIT), "team/a")
    based.check_all(for_engines=["vllm"])
    assert {one.stale for one in based.get("team/a").checks} == {False}
    based.add_base(tmp_path / "base", names=["team/base"], norms=True)

    assert {one.stale for one in based.get("team/a").checks} == {True}
    based.check_all(for_engines=["vllm"])
    assert {one.stale for one in based.get("team/a").checks} == {False}


def test_adapters_that_meet_for_a_merge_are_told_to_be_twins(based, tmp_path):
    based.push(make_adapter(tmp_path / "a"), "team/a")
    based.push(make_adapter(tmp_path / "b", tensors=scaled_otherwise(0), lora_alpha=2), "team/b")
    based.push(make_adapter(tmp_path / "c", 1), "team/c")

    (finding,) = said(based.check("team/a", "team/b", "team/c", together=["merge"]), "merge-twins")
    assert finding.message.startswith("team/a and team/b: ")
    assert finding.fix == "adapters diff team/a team/b"
    assert said(based.check("team/a", "team/c", together=["merge"]), "merge-twins") == []
    folders = [str(tmp_path / name) for name in "ab"]
    assert len(said(based.check(*folders, together=["merge"]), "merge-twins")) == 1


def test_untrained_adapters_are_no_twins_of_each_other(based, tmp_path):
    nothing = {name: value * ("lora_A" in name) for name, value in factors(0).items()}
    for name in "ab":
        based.push(make_adapter(tmp_path / name, tensors=nothing, r=2, inference_mode=name == "a"), f"team/{name}")

    assert said(based.check("team/a", "team/b", together=["merge"]), "merge-twins") == []


def test_the_rules_of_the_catalog_are_asked_of_versions_alone(based, tmp_path):
    based.push(make_adapter(tmp_path / "a"), "team/a")
    report = based.check("team/a", str(tmp_path / "a"))

    asked = [{rule.id for rule in verdict.rules} for verdict in report.results]
    assert ["version-twin" in rules for rules in asked] == [True, False]
    assert ["base-moved" in rules for rules in asked] == [True, False]
    assert MOVED not in json.dumps(report.as_json())
