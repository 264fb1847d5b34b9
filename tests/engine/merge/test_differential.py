"""Drawn merges from file to file against the methods' definitions on dense ΔW in float64: products, never A or B."""

import random

import numpy as np
import pytest

from engine.errors import OptionError
from engine.format.adapter import read_adapter
from engine.format.files.digest import tensors_digest
from engine.merge import METHODS, Options, RankRule, Source, merge
from engine.merge.dropping.masks import mask, mask_key
from tests.engine.merge import definitions
from tests.engine.merge.drawn import FAMILIES, draw_model
from tests.engine.merge.factories import best, deltas, distance, pairs

MODELS = [(family, seed) for family in FAMILIES for seed in (1, 2)]
TRIMMED = {"ties": definitions.elected, "magnitude_prune": definitions.scaled_sum}
DROPPED = {"dare_ties": definitions.elected, "dare_linear": definitions.scaled_sum}
SUMS = {
    **dict.fromkeys(("cat", "linear", "svd", "resize"), definitions.weighted_sum),
    **{name: getattr(definitions, name) for name in ("slerp", "model_stock", "tsv_m", "knots_ties")},
}
FLOAT32 = {*TRIMMED, *DROPPED}
"""Methods whose elements are float32."""


@pytest.fixture(scope="module", params=MODELS, ids=lambda model: f"{model[0]}-{model[1]}".replace(" ", "-"))
def drawn(request, tmp_path_factory):
    return draw_model(*request.param, tmp_path_factory.mktemp("parents"))


def drawn_sources(drawn, method, draw):
    """As many parents as the method takes, with weights that it takes."""
    row = METHODS[method]
    folders, weights = drawn.folders[: row.most], drawn.weights[: row.most]
    if method == "slerp":
        weights = [abs(weight) for weight in weights]
    if method == "model_stock":
        weights = [0.4] * len(folders)
    return folders, weights, draw.choice([True, False])


def drawn_options(method, draw):
    choices = {
        "density": (0.15, 0.3, 0.5, 0.8, 1.0),
        "trim": ("tensor", "global"),
        "rescale": ("density", "none"),
        "elect": ("weighted", "unweighted"),
        "majority_sign": ("total", "frequency"),
        "scale": (0.7, 1.0, -1.4),
        "seed": (0, 7, 2**40),
    }
    return {name: draw.choice(values) for name, values in choices.items() if name in METHODS[method].defaults}


def defined(method, folders, weights, options):
    """Module to the merged ΔW, whole."""
    parents = [deltas(folder) for folder in folders]
    shapes = {name: delta.shape for parent in parents for name, delta in parent.items()}
    whole = [{name: parent.get(name, np.zeros(shape)) for name, shape in shapes.items()} for parent in parents]
    if method in TRIMMED:
        kept = [_trims(parent, options) for parent in parents]
        return _by_elements(TRIMMED[method], kept, shapes, weights, options)
    if method in DROPPED:
        kept = [_drops(folder, parent, options) for folder, parent in zip(folders, parents, strict=True)]
        return _by_elements(DROPPED[method], kept, shapes, weights, options)
    if method == "core_ties":
        factors = [pairs(folder) for folder in folders]
        return {name: definitions.core_ties([one.get(name) for one in factors], weights, options) for name in shapes}
    return {name: SUMS[method]([parent[name] for parent in whole], weights, options) for name in shapes}


def _trims(parent, options):
    every = np.concatenate([delta.ravel() for delta in parent.values()])
    least = definitions.threshold(every, options["density"])
    return {
        name: definitions.trim(
            delta, least if options["trim"] == "global" else definitions.threshold(delta, options["density"]), options
        )
        for name, delta in parent.items()
    }


def _drops(folder, parent, options):
    facts = read_adapter(folder)
    digest = tensors_digest(facts.weights, facts.header)
    return {
        name: definitions.drop(delta, _mask(options, digest, name, delta), options) for name, delta in parent.items()
    }


def _mask(options, digest, name, delta):
    key = mask_key(options["seed"], digest, name, 0)
    return mask(key, options["density"], 0, delta.size).numpy().reshape(delta.shape)


def _by_elements(rule, kept, shapes, weights, options):
    found = {}
    for name in shapes:
        present = [(one[name], weight) for one, weight in zip(kept, weights, strict=True) if name in one]
        found[name] = rule([one for one, _ in present], [weight for _, weight in present], options)
    return found


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("method", METHODS)
def test_ours_is_the_definition(drawn, method, tmp_path):
    """Whole, or cut to a drawn rank."""
    draw = random.Random(f"{drawn.name} {method}")
    folders, weights, cut = drawn_sources(drawn, method, draw)
    options = drawn_options(method, draw)
    rank = draw.randint(1, 5) if cut and not METHODS[method].stacks else None
    rule = RankRule() if METHODS[method].stacks else RankRule(rank or "max")
    sources = [Source(folder, weight) for folder, weight in zip(folders, weights, strict=True)]

    merge(sources, method=method, rule=rule, options=Options(**options), out=tmp_path / "out")

    expected, found = defined(method, folders, weights, options), deltas(tmp_path / "out")
    assert found.keys() == expected.keys()
    tolerance = 2e-5 if method in FLOAT32 else 1e-6
    for name, target in expected.items():
        assert distance(found[name], best(target, rank) if rank else target) < tolerance, name


def test_every_method_is_defined():
    assert {*SUMS, *TRIMMED, *DROPPED, "core_ties"} == METHODS.keys()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("method", [name for name, row in METHODS.items() if row.fewest > 1])
def test_too_few_parents_are_refused(drawn, method, tmp_path):
    with pytest.raises(OptionError, match=f"{method} merges"):
        merge([Source(drawn.folders[0], 1.0)], method=method, out=tmp_path / "out")
