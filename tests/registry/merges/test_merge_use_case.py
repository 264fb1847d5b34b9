"""Merge through the API: what is published, recorded and refused; the mathematics is tested with engine.merge."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from engine.errors import OptionError, RefusedError
from registry.errors import FindingsError, NotFoundError, UsageError
from tests.registries import MODULES, factors, make_adapter, make_base

NAMES = [f"base_model.model.{name}" for name in MODULES]


def delta(tensors, name, scaling):
    a, b = (tensors[f"{name}.lora_{side}.weight"].astype(np.float64) for side in "AB")
    return scaling * b @ a


def merged_delta(folder, name):
    """ΔW of a merge's result, scaling by its own config (r = lora_alpha, or the module's pattern on both)."""
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["r"] == config["lora_alpha"]
    assert config["rank_pattern"] == config["alpha_pattern"]
    return delta(load_file(folder / "adapter_model.safetensors"), name, 1)


@pytest.fixture
def parents(prepared):
    return prepared(push_two)


def push_two(registry, tmp_path):
    """team/a of rank 2 (alpha 4) and team/b of rank 1 (alpha 3, rsLoRA: scaling 3)."""
    registry.push(make_adapter(tmp_path / "a", seed=1, rank=2), "team/a")
    registry.push(make_adapter(tmp_path / "b", seed=2, rank=1, lora_alpha=3, use_rslora=True), "team/b")


def expected(name, weights):
    return weights[0] * delta(factors(1, 2), name, 2) + weights[1] * delta(factors(2, 1), name, 3)


@pytest.mark.parametrize("method", ["cat", "linear"])
def test_exact_methods_publish_the_weighted_sum(parents, method):
    result = parents.merge(["team/a", "team/b@1"], weights=[0.7, -0.3], combination=method, into="team/ab")
    folder = parents.pull(result.ref)

    assert (result.ref, result.created, result.report["method"]) == ("team/ab@1", True, method)
    for name in NAMES:
        np.testing.assert_allclose(merged_delta(folder, name), expected(name, (0.7, -0.3)), atol=2e-6)


def test_svd_is_the_best_approximation_of_its_rank(parents):
    result = parents.merge(["team/a", "team/b"], combination="svd", rank=1, into="team/ab")
    folder = parents.pull(result.ref)

    for name in NAMES:
        target = expected(name, (0.5, 0.5))
        values = np.linalg.svd(target, compute_uv=False)
        error = np.linalg.norm(merged_delta(folder, name) - target)
        assert error == pytest.approx(np.hypot(*values[1:3]), rel=1e-5)


def test_lineage_recipe_report_and_spectra_are_kept(parents):
    parents.merge(["team/a", "team/b"], weights=[1, 2], into="team/ab", aliases=["prod"], tags={"kind": "merge"})
    detail = parents.show("team/ab@prod")
    digests = [parents.show(ref).digest for ref in ("team/a", "team/b")]
    edges = {(edge.parent, edge.relation, edge.weight) for edge in detail.lineage.edges if edge.relation != "base"}

    assert edges == {("team/a@1", "merged_from", 1.0), ("team/b@1", "merged_from", 2.0)}
    assert detail.recipe["body"]["parents"] if "body" in detail.recipe else detail.recipe["parents"]
    assert [parent["digest"] for parent in detail.report["parents"]] == digests
    assert {"method", "rank", "modules", "energy_kept", "relative_error", "parents"} <= detail.report.keys()
    assert {(module["rank"], len(module["spectrum"])) for module in detail.modules} == {(2, 3)}
    assert detail.tags == {"kind": "merge"}


def test_the_same_merge_again_is_unchanged(parents):
    first = parents.merge(["team/a", "team/b"], into="team/ab")
    again = parents.merge(["team/a", "team/b"], into="team/ab")

    assert (again.ref, again.digest, again.created) == (first.ref, first.digest, False)


def test_a_dry_run_reports_and_publishes_nothing(parents):
    result = parents.merge(["team/a", "team/b"], combination="cat", into="team/ab", dry_run=True)

    assert (result.ref, result.created, result.report["rank"]) == (None, False, 3)
    assert result.report["relative_error"] < 1e-6
    with pytest.raises(NotFoundError):
        parents.show("team/ab")
    assert parents.fsck().findings == ()


def test_weights_must_be_one_finite_number_a_parent(parents):
    for weights in ([1], [1, 2, 3], [1, float("nan")]):
        with pytest.raises(UsageError, match="weight"):
            parents.merge(["team/a", "team/b"], weights=weights, into="team/ab")
    with pytest.raises(OptionError, match="median"):
        parents.merge(["team/a", "team/b"], combination="median", into="team/ab")


def test_what_cannot_be_carried_is_refused_by_name(parents, tmp_path):
    magnitude = {f"{NAMES[0]}.lora_magnitude_vector": np.ones(6, np.float32)}
    second = {f"{NAMES[1]}.lora_magnitude_vector": np.ones(8, np.float32)}
    folder = make_adapter(tmp_path / "d", tensors={**factors(3), **magnitude, **second}, use_dora=True)
    parents.push(folder, "team/dora")

    with pytest.raises(RefusedError) as refused:
        parents.merge(["team/a", "team/dora"], into="team/x")
    assert [finding.rule for finding in refused.value.findings] == ["merge-dora"]
    assert refused.value.exit_code == 1


def test_different_bases_are_refused_unless_assumed_equal(parents, tmp_path):
    parents.push(make_adapter(tmp_path / "c", seed=3, base_model_name_or_path="other/base"), "team/c")

    with pytest.raises(FindingsError, match="base-differs") as refused:
        parents.merge(["team/a", "team/c"], into="team/x")
    assert refused.value.subjects == ("team/a@1", "team/c@1")
    assert parents.merge(["team/a", "team/c"], into="team/x", assume_same_base=True).created


def test_two_names_of_one_fingerprint_are_one_base(parents, tmp_path):
    base = make_base(tmp_path / "base")
    parents.add_base(base, names=["team/base", "other/base"])
    parents.push(make_adapter(tmp_path / "c", seed=3, base_model_name_or_path="other/base"), "team/c")

    assert parents.merge(["team/a", "team/c"], into="team/x").created


def test_a_parent_without_a_base_name_is_a_warning(parents, tmp_path):
    parents.push(make_adapter(tmp_path / "c", seed=3, base_model_name_or_path=""), "team/c")
    result = parents.merge(["team/a", "team/c"], into="team/x")

    assert "base-unnamed" in {finding.rule for finding in result.findings if finding.severity == "warning"}


def test_progress_tells_modules_and_ends_at_the_total(parents):
    seen = []
    parents.merge(["team/a", "team/b"], into="team/ab", progress=lambda *step: seen.append(step))

    assert {step[1:] for step in seen if step[0].startswith("merging ")} == {(1, 2), (2, 2)}
    assert {step[0] for step in seen} >= {f"merging {name}" for name in MODULES}


def test_a_base_that_looks_like_a_path_is_a_name_to_a_merge(registry, tmp_path):
    """A stranger's config names a folder of his machine: nothing is read there, here or anywhere."""
    for name, seed in (("a", 1), ("b", 2)):
        folder = make_adapter(tmp_path / name, seed=seed, base_model_name_or_path="/models/nowhere")
        registry.push(folder, f"team/{name}")
    result = registry.merge(["team/a", "team/b"], into="team/ab")

    assert (result.ref, registry.show("team/ab").base) == ("team/ab@1", "/models/nowhere")


def test_the_merged_bytes_are_those_of_the_recorded_parent(parents, monkeypatch, tmp_path):
    """An alias that moves between resolving and fetching changes neither."""
    from registry.merges import ingredients

    parents.push(make_adapter(tmp_path / "c", seed=3, rank=2), "team/a")
    parents.set_alias("team/a@1", "prod")

    def moving(handle, ref):
        parents.set_alias("team/a@2", "prod")
        return pull(handle, ref)

    pull = ingredients.pull
    monkeypatch.setattr(ingredients, "pull", moving)
    result = parents.merge(["team/a@prod"], combination="cat", into="team/copy")
    monkeypatch.undo()

    assert result.report["parents"][0]["ref"] == "team/a@1"
    for name in NAMES:
        expected_delta = delta(factors(1, 2), name, 2)
        np.testing.assert_allclose(merged_delta(parents.pull(result.ref), name), expected_delta, atol=2e-6)


@pytest.mark.parametrize("wrong", [{"message": "x" * 5000}, {"tags": {"a": "\x01"}}, {"allow": ["no-rule"]}])
def test_texts_are_judged_before_anything_is_merged(parents, monkeypatch, wrong):
    monkeypatch.setattr("registry.merges.merge.merge_adapters", lambda *_, **__: pytest.fail("merged already"))
    with pytest.raises(UsageError):
        parents.merge(["team/a", "team/b"], into="team/ab", **wrong)


@pytest.mark.parametrize(("refs", "weights"), [([], None), (["team/a"], [])])
def test_no_parents_or_no_weights_are_refused(parents, refs, weights):
    with pytest.raises(UsageError):
        parents.merge(refs, weights=weights, into="team/ab")


class TestLicences:
    def two(self, registry, tmp_path, one, other):
        registry.push(make_adapter(tmp_path / "a", seed=1), "team/a", licence=one)
        registry.push(make_adapter(tmp_path / "b", seed=2), "team/b", licence=other)
        return registry

    def test_the_stricter_licence_follows_and_is_said_to(self, registry, tmp_path):
        result = self.two(registry, tmp_path, "mit", "gemma").merge(
            ["team/a", "team/b"], combination="cat", into="t/ab"
        )
        detail = registry.show(result.ref)

        assert (detail.licence, detail.sources["licence"]) == ("gemma", "parents")
        assert "licence-inherited" in {finding.rule for finding in result.findings}

    def test_licences_that_exclude_each_other_refuse_the_merge_unless_it_is_allowed(self, registry, tmp_path):
        self.two(registry, tmp_path, "gpl-3.0", "cc-by-nc-4.0")

        with pytest.raises(FindingsError, match="team/a@1, team/b@1: refused by licence-conflict"):
            registry.merge(["team/a", "team/b"], combination="cat", into="team/ab")
        with pytest.raises(NotFoundError):
            registry.show("team/ab")
        allowed = registry.merge(["team/a", "team/b"], combination="cat", into="team/ab", allow=["licence-conflict"])
        assert registry.show(allowed.ref).licence is None

    def test_a_licence_that_is_given_stands(self, registry, tmp_path):
        self.two(registry, tmp_path, "mit", None)
        result = registry.merge(["team/a", "team/b"], combination="cat", into="team/ab", licence="mit")

        assert registry.show(result.ref).licence == "mit"
        assert "licence-unnamed" in {finding.rule for finding in result.findings}
