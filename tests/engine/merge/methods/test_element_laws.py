"""Laws of the methods on single elements: one parent, order, signs, scale, weights of zero, one under two names."""

import itertools

import numpy as np
import pytest

from engine.errors import OptionError
from engine.merge import METHODS, Options, RankRule, Source, merge, plan
from engine.merge.methods import ALIASES
from tests.engine.merge.elementwise import combined, dense, part, product
from tests.engine.merge.factories import best, deltas, distance, linear, write_adapter

METHODS_HERE = ["ties", "dare_linear", "dare_ties", "magnitude_prune"]
SUMS = {"dare_linear", "magnitude_prune"}
SHAPE = (14, 11)
WEIGHTS = (0.7, -0.4, 1.1)


@pytest.fixture(scope="module")
def parts():
    return [part(*SHAPE, rank, seed) for seed, rank in enumerate((2, 3, 4))]


def whole(method, parts, weights, **options):
    """Nothing cut."""
    return product(combined(method, parts, weights, rank=11, **options), 11)


@pytest.mark.parametrize("method", METHODS_HERE)
def test_one_parent_of_weight_one_is_itself(method, parts):
    for one in parts:
        assert distance(whole(method, [one], [1.0], density=1.0), dense(one)) < 1e-6


@pytest.mark.parametrize("method", METHODS_HERE)
def test_order_does_not_matter(method, parts):
    expected = whole(method, parts, WEIGHTS)
    for order in itertools.permutations(range(3)):
        found = whole(
            method,
            [parts[place] for place in order],
            [WEIGHTS[place] for place in order],
            keys=["pqr"[place] for place in order],
        )
        assert distance(found, expected) < 1e-6


@pytest.mark.parametrize("method", METHODS_HERE)
def test_negated_weights_negate_the_result(method, parts):
    assert distance(whole(method, parts, [-weight for weight in WEIGHTS]), -whole(method, parts, WEIGHTS)) < 1e-6


@pytest.mark.parametrize("method", METHODS_HERE)
@pytest.mark.parametrize("factor", [0.25, 3.0])
def test_scaled_weights_scale_sums_and_leave_means(method, parts, factor):
    found = whole(method, parts, [factor * weight for weight in WEIGHTS])

    assert distance(found, whole(method, parts, WEIGHTS) * (factor if method in SUMS else 1.0)) < 1e-6


@pytest.mark.parametrize("method", METHODS_HERE)
def test_lambda_scales_the_result(method, parts):
    assert distance(whole(method, parts, WEIGHTS, scale=-2.5), -2.5 * whole(method, parts, WEIGHTS)) < 1e-6


@pytest.mark.parametrize("method", METHODS_HERE)
def test_a_parent_of_weight_zero_is_not_there(method, parts):
    found = whole(method, parts, (0.7, 0.0, 1.1))

    assert distance(found, whole(method, [parts[0], parts[2]], (0.7, 1.1), keys=("p", "r"))) < 1e-6


@pytest.mark.parametrize("method", METHODS_HERE)
def test_all_weights_zero_is_zero(method, parts):
    assert not whole(method, parts, (0.0, 0.0, 0.0)).any()


@pytest.mark.parametrize("method", sorted(SUMS))
@pytest.mark.parametrize("rank", [2, 9])
def test_a_sum_of_everything_is_svd(method, parts, rank):
    """To float64, as svd."""
    expected = best(sum(weight * dense(one) for weight, one in zip(WEIGHTS, parts, strict=True)), rank)

    target = combined(method, parts, WEIGHTS, rank=rank, density=1.0)

    assert target.bound is None
    assert distance(product(target, rank), expected) < 1e-12


@pytest.mark.parametrize("method", METHODS_HERE)
def test_the_same_parent_twice_is_one_of_both_weights(method, parts):
    """DARE draws once for it, since it is the same adapter."""
    twice = whole(method, [parts[0], parts[0]], (0.3, 0.4), keys=("p", "p"))

    assert distance(twice, whole(method, [parts[0]], (0.7,))) < 1e-6


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    home = tmp_path_factory.mktemp("parents")
    made = []
    for seed in (1, 2):
        tensors = linear("both", inputs=16, outputs=12, rank=4, seed=seed)
        tensors |= linear(f"only{seed}", inputs=10, outputs=8, rank=4, seed=seed + 10)
        made.append(write_adapter(home / str(seed), tensors))
    return made


@pytest.mark.parametrize("method", METHODS_HERE)
def test_a_module_of_one_parent_is_merged_from_it_alone(folders, tmp_path, method):
    sources = [Source(folder, weight) for folder, weight in zip(folders, (0.5, 2.0), strict=True)]
    merge(sources, method=method, options=Options(density=1.0), rule=RankRule("max"), out=tmp_path / "out")

    found = deltas(tmp_path / "out")

    for place, weight in ((1, 0.5), (2, 2.0)):
        own = deltas(folders[place - 1])[f"only{place}"]
        assert distance(found[f"only{place}"], own * (weight if method in SUMS else 1.0)) < 1e-6


@pytest.mark.parametrize("method", METHODS_HERE)
def test_pefts_name_with_svd_is_the_same_method(folders, tmp_path, method):
    sources = [Source(folder, 0.5) for folder in folders]
    planned = plan(sources, method=f"{method}_svd")

    assert planned.method == method
    results = []
    for name in (method, f"{method}_svd"):
        merge(sources, method=name, out=tmp_path / name)
        results.append((tmp_path / name / "adapter_model.safetensors").read_bytes())
    assert results[0] == results[1]


def test_every_alias_names_a_method_and_is_none():
    assert set(ALIASES.values()) <= set(METHODS)
    assert not set(ALIASES) & set(METHODS)


def test_defaults_are_those_of_the_papers_and_stand_in_the_plan(folders):
    sources = [Source(folder, 0.5) for folder in folders]
    ties, dare = (plan(sources, method=method).options for method in ("ties", "dare_linear"))

    assert (ties.density, ties.trim, ties.rescale, ties.elect, ties.majority_sign, ties.scale) == (
        *(0.2, "global", "none", "weighted", "total", 1.0),
    )
    assert (dare.density, dare.rescale, dare.scale, dare.trim, dare.elect) == (0.5, "density", 1.0, None, None)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("ties", {"density": 0.0}, r"density 0.0: expected a share in \(0, 1\]"),
        ("ties", {"density": 1.5}, "density 1.5"),
        ("dare_ties", {"density": float("nan")}, "density nan"),
        ("dare_linear", {"elect": "weighted"}, "dare_linear takes no elect"),
        ("dare_ties", {"trim": "global"}, "dare_ties takes no trim"),
        ("magnitude_prune", {"majority_sign": "total"}, "magnitude_prune takes no majority-sign"),
        ("ties", {"trim": "layer"}, "trim 'layer': expected tensor or global"),
    ],
)
def test_options_that_a_method_does_not_take_are_refused(folders, method, options, message):
    with pytest.raises(OptionError, match=message):
        plan([Source(folder, 0.5) for folder in folders], method=method, options=Options(**options))


def test_a_result_may_have_more_rank_than_the_parents_together(folders, tmp_path):
    """Eight together, twelve rows: what trimming leaves has full rank."""
    report = merge([Source(f, 0.5) for f in folders], method="ties", rule=RankRule(12), out=tmp_path / "out")

    both = next(module for module in report.per_module if module.name == "both")
    assert both.rank == 12
    assert np.linalg.matrix_rank(deltas(tmp_path / "out")["both"]) == 12
