"""Grids of weights, recipes and repeated merges through the API."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from sqlalchemy import update

from registry.errors import NotFoundError, UsageError
from registry.models import Recipe
from tests.registries import MODULES, factors, make_adapter, make_base

FIRST = next(iter(MODULES))
NAMES = [f"base_model.model.{name}" for name in MODULES]


@pytest.fixture
def parents(prepared):
    return prepared(push_two)


def push_two(registry, tmp_path):
    for place, name in enumerate("ab", 1):
        registry.push(make_adapter(tmp_path / name, seed=place, rank=2), f"team/{name}")


def delta(tensors, name, scaling):
    a, b = (tensors[f"{name}.lora_{side}.weight"].astype(np.float64) for side in "AB")
    return scaling * b @ a


def merged(registry, ref):
    tensors = load_file(registry.pull(ref) / "adapter_model.safetensors")
    return {name: delta(tensors, name, 1) for name in NAMES}


def expected(name, weights):
    return sum(weight * delta(factors(seed, 2), name, 2) for seed, weight in enumerate(weights, 1))


def test_a_version_for_each_row(parents):
    grid = [(0.7, 0.3), (1.0, -1.0)]

    results = parents.merge_grid(["team/a", "team/b"], weights_grid=grid, rank="max", into="team/ab")

    assert [result.ref for result in results] == ["team/ab@1", "team/ab@2"]
    for result, row in zip(results, grid, strict=True):
        recipe = parents.show(result.ref).recipe
        assert [parent["weight"] for parent in recipe["parents"]] == list(row)
        for name, found in merged(parents, result.ref).items():
            np.testing.assert_allclose(found, expected(name, row), atol=2e-6)


def test_a_row_gives_the_bytes_of_its_own_merge(parents):
    grid = parents.merge_grid(["team/a", "team/b"], weights_grid=[(1, 1), (0.7, 0.3)], into="team/grid")
    alone = parents.merge(["team/a", "team/b"], weights=[0.7, 0.3], into="team/alone")

    assert grid[1].tensors_digest == alone.tensors_digest != grid[0].tensors_digest


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights_grid": [(1, 2), (1,)]}, "1 weights for 2 adapters"),
        ({"weights_grid": []}, "at least one row"),
        ({"weights_grid": [(1, 2)], "weights": [1, 2]}, "exclude each other"),
        ({"weights_grid": [(1, 2), (2, 1)], "aliases": ["prod"]}, "an alias names one version"),
        ({"weights_grid": [(1, 2), (2, 1)], "energy": 0.9}, "a grid of weights takes a rank"),
        ({"weights_grid": [(1, float("nan"))]}, "finite number"),
    ],
)
def test_grids_that_mean_nothing(parents, options, message):
    with pytest.raises(UsageError, match=message):
        parents.merge_grid(["team/a", "team/b"], into="team/ab", **options)
    with pytest.raises(NotFoundError):
        parents.show("team/ab")


def test_weights_by_module_from_a_recipe(parents, tmp_path):
    """The first module takes b three times, every other as often as a."""
    spec = {
        "method": "cat",
        "parents": [
            {"ref": "team/a", "weight": 1.0},
            {"ref": "team/b", "weight": {"default": 1.0, "rules": [{"modules": FIRST, "weight": 3}]}},
        ],
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(spec))

    result = parents.merge(spec=path, into="team/ab")

    found = merged(parents, result.ref)
    np.testing.assert_allclose(found[NAMES[0]], expected(NAMES[0], (1, 3)), atol=2e-6)
    np.testing.assert_allclose(found[NAMES[1]], expected(NAMES[1], (1, 1)), atol=2e-6)
    assert parents.rerun(result.ref).same


@pytest.mark.parametrize("more", [{"refs": ["team/a"]}, {"rank": 4}, {"weights": [1]}, {"combination": "svd"}])
def test_a_recipe_file_says_everything(parents, tmp_path, more):
    path = tmp_path / "recipe.yaml"
    path.write_text("parents: [team/a, team/b]")

    with pytest.raises(UsageError, match="not both"):
        parents.merge(**{"refs": (), **more}, spec=path, into="team/ab")


def test_energy_and_budget_reach_the_engine(parents):
    by_energy = parents.merge(["team/a", "team/b"], energy=0.9, into="team/energy")
    by_budget = parents.merge(["team/a", "team/b"], budget="4KB", into="team/budget")

    assert min(module["energy_kept"] for module in by_energy.report["per_module"]) >= 0.9
    size = next(file.size for file in parents.show(by_budget.ref).files if file.path.endswith(".safetensors"))
    assert size <= 4000


def test_a_repeated_merge_is_the_same(parents):
    for method, options in (("svd", {"rank": 3}), ("cat", {}), ("svd", {"energy": 0.9, "dtype": "bf16"})):
        made = parents.merge(["team/a", "team/b"], weights=[0.7, -0.3], combination=method, into="team/x", **options)

        again = parents.rerun(made.ref)

        assert (again.ref, again.same, again.found, again.changed) == (made.ref, True, made.tensors_digest, {})


def test_other_bytes_are_told(parents, monkeypatch):
    """A merge that another release would do otherwise: here, one whose weights were doubled on the way."""
    from registry.merges import rerun

    made = parents.merge(["team/a", "team/b"], into="team/ab")
    merge_adapters = rerun.merge_adapters

    def doubled(ingredients, combination, rows, outs, **options):
        report = merge_adapters(ingredients, combination, rows, outs, **options)
        path = outs[0] / "adapter_model.safetensors"
        save_file({name: 2 * tensor for name, tensor in load_file(path).items()}, path)
        return report

    monkeypatch.setattr(rerun, "merge_adapters", doubled)
    monkeypatch.setattr(rerun, "tool_versions", lambda: {"adapter-registry": "9.9", "numpy": "y", "torch": "x"})
    again = parents.rerun(made.ref)

    assert (again.same, again.expected) == (False, made.tensors_digest)
    assert again.found != again.expected
    changed = {name: now for name, (_, now) in again.changed.items()}
    assert changed == {"adapter-registry": "9.9", "numpy": "y", "torch": "x"}


def test_what_no_merge_made_cannot_be_repeated(parents):
    with pytest.raises(UsageError, match="no merge made it"):
        parents.rerun("team/a")


def test_a_parent_that_is_gone_is_named(parents):
    parents.merge(["team/a", "team/b"], into="team/ab")
    digest = parents.show("team/b").digest
    parents.remove("team/b@1")

    with pytest.raises(NotFoundError, match=digest):
        parents.rerun("team/ab")


def test_a_parent_elsewhere_will_do(parents, tmp_path):
    """The recorded one was removed; another adapter holds the same version."""
    parents.merge(["team/a", "team/b"], into="team/ab")
    parents.push(make_adapter(tmp_path / "again", seed=2, rank=2), "team/twin")
    assert parents.show("team/twin").digest == parents.show("team/b").digest
    parents.remove("team/b@1")

    assert parents.rerun("team/ab").same


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"parents": ["sha256:00"]},
        {"parents": [{"digest": "sha256:00"}]},
        {"parents": [{"weight": 1.0}]},
        {"parameters": None},
        {"method": None},
        {"tool": ["torch"]},
        {"base": 3},
    ],
)
def test_a_strangers_recipe_is_refused(parents, change):
    """A bundle may bring any object as the recipe of its version."""
    parents.merge(["team/a", "team/b"], into="team/ab")
    body = {**parents.show("team/ab").recipe, **change}
    handle = parents._handle
    handle.database.write(lambda session: session.execute(update(Recipe).values(body=json.dumps(body))))

    with pytest.raises(UsageError, match="recipe is none that this release can repeat"):
        parents.rerun("team/ab")


METHODS = {
    "dare": {"combination": "dare_ties", "density": 0.5, "seed": 2**64 - 1},
    "an alias": {"combination": "ties_svd", "trim": "tensor", "lambda_": 0.0},
    "peft's": {"combination": "dare_linear", "semantics": "peft", "density": 0.5, "seed": 7},
    "small cores": {"combination": "core_ties", "majority_sign": "frequency", "elect": "unweighted", "rank": 1},
    "a budget": {"combination": "tsv_m", "budget": "2kB"},
}


@pytest.mark.parametrize("name", METHODS)
def test_every_kind_of_merge_can_be_repeated(parents, name):
    made = parents.merge(["team/a", "team/b"], weights=[0.7, -0.3], into="team/ab", **METHODS[name])

    again = parents.rerun(made.ref, jobs=2)

    assert (again.same, again.found) == (True, made.tensors_digest)


def test_a_row_of_a_grid_and_rules_can_be_repeated(parents, tmp_path):
    made = parents.merge_grid(["team/a", "team/b"], weights_grid=[(1, 1), (0.7, -0.3)], into="team/grid")
    rules = {"default": 0.3, "rules": [{"modules": "*.mlp.*", "weight": -1}]}
    ruled = parents.merge(["team/a", "team/b"], weights=[0.7, rules], into="team/ruled")

    assert [parents.rerun(one.ref).same for one in (*made, ruled)] == [True, True, True]
    assert len({one.tensors_digest for one in (*made, ruled)}) == 3


def test_a_merge_that_read_a_base_is_repeated_with_that_base(parents, tmp_path):
    tensors = factors(5, 2)
    tensors |= {f"base_model.model.{name}.lora_magnitude_vector": np.ones(rows, np.float32)
                for name, (_, rows) in MODULES.items()}  # fmt: skip
    parents.push(make_adapter(tmp_path / "dora", rank=2, tensors=tensors, use_dora=True), "team/dora")
    base, other = make_base(tmp_path / "base", 1), make_base(tmp_path / "other", 2)
    made = parents.merge(["team/dora"], combination="resize", rank=1, base=base, into="team/small")

    assert parents.rerun(made.ref, base=base).same
    with pytest.raises(UsageError, match="its merge read base weights"):
        parents.rerun(made.ref)
    with pytest.raises(UsageError, match="another base"):
        parents.rerun(made.ref, base=other)
