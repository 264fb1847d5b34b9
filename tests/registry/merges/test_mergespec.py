"""Recipes as files: what they say, and how a wrong one is named."""

from pathlib import Path

import pytest
import yaml

from registry.errors import IntakeError, UsageError
from registry.merges.combination import OPTIONS, Combination, from_parameters
from registry.merges.mergespec import parse_spec, read_spec
from registry.merges.weighting import Weighting, WeightRule, parse_weighting

RECIPE = """
method: ties
parents:
  - ref: team/sql@3
    weight: 0.7
  - ref: team/chat@prod
    weight:
      default: 0.3
      rules:
        - {layers: 0..15, weight: 0.5}
        - {modules: "*.mlp.*", layers: 3, weight: -1}
parameters:
  density: 0.2
  majority-sign: frequency
  lambda: 1.5
  seed: 7
  budget: 50MB
  dtype: bf16
"""


def test_a_recipe_file(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)

    spec = read_spec(path)

    assert spec.refs == ("team/sql@3", "team/chat@prod")
    assert spec.weights == (
        Weighting(0.7),
        Weighting(0.3, (WeightRule(0.5, layers=(0, 15)), WeightRule(-1.0, "*.mlp.*", (3, 3)))),
    )
    assert spec.combination == Combination(
        method="ties",
        budget=50_000_000,
        dtype="bf16",
        options={"density": 0.2, "majority_sign": "frequency", "lambda": 1.5, "seed": 7},
    )


def test_parents_alone_are_a_recipe():
    spec = parse_spec({"parents": ["team/a", "team/b"]})

    assert (spec.refs, spec.weights, spec.combination) == (("team/a", "team/b"), None, Combination())


WRONG = {
    "a list": ([], "expected a mapping with parents"),
    "no parents": ({"method": "svd"}, "expected a mapping with parents"),
    "unknown key": ({"parents": ["a"], "weigths": [1]}, "'weigths' is no key of a recipe"),
    "unknown parameter": ({"parents": ["a"], "parameters": {"densty": 1}}, "'densty' is no parameter"),
    "parents as text": ({"parents": "a"}, "parents: expected a list"),
    "parent as number": ({"parents": [3]}, "parent 1: expected a reference"),
    "parent's key": ({"parents": [{"ref": "a", "wieght": 1}]}, "parent 1: expected a reference, or ref and weight"),
    "some weights": ({"parents": [{"ref": "a", "weight": 1}, "b"]}, "1 of 2 parents have a weight"),
    "weight as text": ({"parents": [{"ref": "a", "weight": "1"}]}, "weight: expected a number"),
    "weight true": ({"parents": [{"ref": "a", "weight": True}]}, "expected a finite number, found True"),
    "weight nan": ({"parents": [{"ref": "a", "weight": float("nan")}]}, "expected a finite number, found nan"),
    "weight beyond floats": ({"parents": [{"ref": "a", "weight": 10**400}]}, "expected a finite number, found 1000"),
    "no default": ({"parents": [{"ref": "a", "weight": {"rules": []}}]}, "expected a number, or default and rules"),
    "density as text": ({"parents": ["a"], "parameters": {"density": "0.2"}}, "density: expected a number"),
    "seed as float": ({"parents": ["a"], "parameters": {"seed": 1.0}}, "seed: expected a whole number"),
    "rank as text": ({"parents": ["a"], "parameters": {"rank": "all"}}, "rank: expected a whole number"),
    "trim as number": ({"parents": ["a"], "parameters": {"trim": 1}}, "trim: expected a word"),
    "method as list": ({"parents": ["a"], "method": ["svd"]}, "expected method as a name"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_recipe_names_the_place(name):
    document, message = WRONG[name]

    with pytest.raises(UsageError, match=message):
        parse_spec(document, where="recipe.yaml")


RULES = {
    "nothing to fit": ({"weight": 1}, "expected weight with modules, layers or both"),
    "no weight": ({"modules": "*"}, "expected weight with modules"),
    "unknown key": ({"modules": "*", "weight": 1, "rank": 2}, "expected weight with modules"),
    "no glob": ({"modules": 3, "weight": 1}, "expected a pattern"),
    "empty glob": ({"modules": "", "weight": 1}, "expected a pattern"),
    "backwards": ({"layers": "5..3", "weight": 1}, "ends before it starts"),
    "negative": ({"layers": -1, "weight": 1}, "expected A..B"),
    "words": ({"layers": "all", "weight": 1}, "expected A..B"),
    "infinite": ({"layers": 1, "weight": float("inf")}, "expected a finite number"),
}


@pytest.mark.parametrize("name", RULES)
def test_a_wrong_rule_names_its_place(name):
    rule, message = RULES[name]

    with pytest.raises(UsageError, match=f"weight: rule 2.*{message}"):
        parse_weighting({"default": 1, "rules": [{"layers": 1, "weight": 2}, rule]}, where="weight")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("parents: [a\n", "not YAML"),
        ("parents: &x [a]\nmethod: *x\n", "aliases are not read"),
        ("!!python/object/apply:os.system ['true']", "not YAML"),
        ("a" * (2 << 20), "larger than"),
        ("\x00", "not YAML"),
        ("[" * 1500, "not YAML"),
    ],
)
def test_a_hostile_file_is_refused(tmp_path, text, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)

    with pytest.raises(IntakeError, match=message):
        read_spec(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(IntakeError, match=r"absent\.yaml: cannot be read"):
        read_spec(tmp_path / "absent.yaml")


def test_parameters_are_read_again_as_they_were_written():
    combination = Combination(method="ties", rank=8, dtype="bf16", options={"density": 0.2, "lambda": 2.0})

    assert from_parameters("ties", combination.parameters()) == combination
    assert from_parameters("svd", {"rank": None, "dtype": None}) == Combination()


def test_a_weighting_is_read_again_as_it_was_written():
    weighting = Weighting(0.3, (WeightRule(0.5, layers=(0, 15)), WeightRule(-1.0, "*.mlp.*", (3, 3))))

    assert parse_weighting(weighting.as_json(), where="weight") == weighting
    assert parse_weighting(Weighting(2.0).as_json(), where="weight") == Weighting(2.0)


def test_the_recipe_on_the_page_of_methods_is_one():
    """All parameters that the page names are there, and no others."""
    page = (Path(__file__).parents[3] / "docs/methods/README.md").read_text(encoding="utf-8")
    section = page.split("## A merge as a file\n")[1]
    block = section.split("```yaml\n")[1].split("```")[0]
    named = section.split("by their names: ")[1].split(".")[0].replace("-", "_").replace("\n", " ").split(", ")

    spec = parse_spec(yaml.safe_load(block))

    assert spec.refs == ("team/sql@3", "team/chat@prod")
    assert spec.combination == Combination(method="ties", energy=0.99, options={"density": 0.2})
    assert spec.weights == (
        Weighting(0.7),
        Weighting(0.3, (WeightRule(0.1, "*.mlp.*", (0, 7)), WeightRule(0.5, None, (20, 31)))),
    )
    assert set(named) == set(Combination().parameters()) | set(OPTIONS)
