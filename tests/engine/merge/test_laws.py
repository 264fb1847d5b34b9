"""Laws that hold whatever is drawn: identity, permutation, negation, scaling, all parents at once, bytes."""

import copy
import math
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import peft
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from engine.merge import METHODS, Options, Part, Parts, RankRule, Site, Source, merge
from engine.merge.given.options import complete
from engine.merge.matrices.rows import filled
from tests.engine.merge.drawn import FAMILIES, draw_model
from tests.engine.merge.factories import deltas, distance, linear, write_adapter
from tests.engine.merge.peft.test_peft import add

SUMS = ("cat", "linear", "svd")
SIGNED = ("ties", "dare_ties", "knots_ties", "core_ties")
"""Means over those that agree: only the ratio of the weights counts."""
HOMOGENEOUS = (*SUMS, "dare_linear", "magnitude_prune", "tsv_m")
SYMMETRIC = tuple(name for name, row in METHODS.items() if row.most is None)
KEEPING = {"density": 1.0, "rescale": "none"}
"""Options with which nothing is trimmed or dropped."""

FEW = settings(max_examples=5, deadline=None, derandomize=True)
"""Each law holds for ten methods and more, so each method sees few cases of each."""

weights = st.floats(0.1, 3).flatmap(lambda size: st.sampled_from([size, -size]))
shapes = st.tuples(st.integers(2, 14), st.integers(2, 14))


@st.composite
def parents(draw, fewest=2, most=4):
    """Parts of one shape, of drawn ranks and scalings, digests to tell them apart, and weights."""
    rows, columns = draw(shapes)
    count = draw(st.integers(fewest, most))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    items = []
    for _ in range(count):
        rank, scaling = draw(st.integers(1, 5)), draw(st.floats(0.2, 4))
        B, A = torch.randn(rows, rank, generator=generator), torch.randn(rank, columns, generator=generator)
        items.append(Part(B, A, scaling))
    return items, [draw(weights) for _ in items]


def merged(method, items, weights, **options):
    """The whole ΔW."""
    row = METHODS[method]
    taken = {name: value for name, value in options.items() if name in row.defaults}
    if "trim" in row.defaults:
        taken["trim"] = "tensor"
    site = Site(
        weights=weights,
        rank=min(items[0].B.shape[0], items[0].A.shape[1]),
        module="m",
        keys=[str(float(item.A.sum())) for item in items],
        options=complete(Options(**taken), row.defaults, method=method),
    )
    target = row.combine(Parts(items), site)
    B, A = target.factors(site.rank)
    return (B @ A).numpy()


def dense(item):
    return item.scaling * (item.B.double() @ item.A.double()).numpy()


def even(method, weights):
    """Weights that the method takes."""
    return [0.5 for _ in weights] if method == "model_stock" else weights


@pytest.mark.parametrize("method", [name for name, row in METHODS.items() if row.fewest == 1])
@FEW
@given(case=parents(1, 1))
def test_one_parent_with_weight_one_is_itself(method, case):
    items, _ = case

    assert distance(merged(method, items, [1.0], **KEEPING), dense(items[0])) < 1e-5


@pytest.mark.parametrize("method", [name for name in SYMMETRIC if METHODS[name].fewest == 1])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_one_parent_of_every_flavour_is_itself(method, family, tmp_path):
    """From file to file: rsLoRA, patterns, embeddings, convolutions, Conv1D."""
    folder = _single(family).folders[0]
    options = {name: value for name, value in KEEPING.items() if name in METHODS[method].defaults}
    rule = RankRule() if METHODS[method].stacks else RankRule("max")

    merge([Source(folder, 1.0)], method=method, options=Options(**options), rule=rule, out=tmp_path / "out")

    expected, found = deltas(folder), deltas(tmp_path / "out")
    assert found.keys() == expected.keys()
    assert max(distance(found[name], expected[name]) for name in expected) < 1e-5


_SINGLES = {}
_FOLDER = TemporaryDirectory()


def _single(family):
    if family not in _SINGLES:
        _SINGLES[family] = draw_model(family, 0, Path(_FOLDER.name) / family)
    return _SINGLES[family]


@pytest.mark.parametrize("method", SYMMETRIC)
@FEW
@given(case=parents(), data=st.data())
def test_the_order_of_parents_does_not_matter(method, case, data):
    items, weights = case
    weights = even(method, weights)
    order = data.draw(st.permutations(range(len(items))))

    there = merged(method, items, weights)
    back = merged(method, [items[place] for place in order], [weights[place] for place in order])

    assert distance(back, there) < 1e-4


@pytest.mark.parametrize("method", [*HOMOGENEOUS, *SIGNED])
@FEW
@given(case=parents())
def test_negated_weights_negate_the_result(method, case):
    items, weights = case

    there, back = merged(method, items, weights), merged(method, items, [-weight for weight in weights])

    assert distance(back, -there) < 1e-5


@pytest.mark.parametrize("method", HOMOGENEOUS)
@FEW
@given(case=parents(), factor=st.sampled_from([0.25, 2.0, 8.0]))
def test_a_common_factor_of_weights_multiplies_the_result(method, case, factor):
    items, weights = case

    assert (
        distance(merged(method, items, [factor * one for one in weights]), factor * merged(method, items, weights))
        < 1e-5
    )


@pytest.mark.parametrize("method", [*SIGNED, "slerp", "model_stock"])
@FEW
@given(case=parents(2, 2), factor=st.sampled_from([0.25, 2.0, 8.0]))
def test_a_common_factor_of_weights_is_nothing_to_a_mean(method, case, factor):
    items, weights = case
    weights = [abs(weight) for weight in even(method, weights)]

    assert distance(merged(method, items, [factor * one for one in weights]), merged(method, items, weights)) < 1e-5


@pytest.mark.parametrize("method", [name for name, row in METHODS.items() if "scale" in row.defaults])
@FEW
@given(case=parents(2, 2), factor=st.sampled_from([-1.0, 0.25, 2.0]))
def test_lambda_multiplies_the_result(method, case, factor):
    items, weights = case
    weights = [abs(weight) for weight in weights]

    assert distance(merged(method, items, weights, scale=factor), factor * merged(method, items, weights)) < 1e-5


@pytest.mark.parametrize("method", [name for name in SYMMETRIC if name != "model_stock"])
@FEW
@given(case=parents())
def test_scaling_may_lie_in_b(method, case):
    """Only the ΔW counts, or the factors with their scaling: (B, A, s) and (s·B, A, 1) are one parent."""
    items, weights = case
    folded = [Part(item.B.double() * item.scaling, item.A, 1.0) for item in items]

    assert distance(merged(method, folded, weights), merged(method, items, weights)) < 1e-5


@pytest.mark.parametrize("method", ["dare_linear", "magnitude_prune"])
@FEW
@given(case=parents())
def test_with_nothing_dropped_it_is_the_weighted_sum(method, case):
    items, weights = case

    assert distance(merged(method, items, weights, **KEEPING), merged("svd", items, weights)) < 1e-5


@FEW
@given(case=parents(), size=st.integers(1, 200))
@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
def test_the_size_of_blocks_does_not_matter(method, case, size):
    items, weights = case
    whole = merged(method, items, weights)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filled, "__kwdefaults__", {"size": size})
        blocks = merged(method, items, weights)

    assert distance(blocks, whole) < 1e-6


@FEW
@given(case=parents(), seed=st.integers(0, 2**64 - 1))
@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
def test_a_seed_decides_what_is_drawn(method, case, seed):
    items, weights = case

    again, other = (merged(method, items, weights, seed=one) for one in (seed, (seed + 1) % 2**64))

    assert np.array_equal(again, merged(method, items, weights, seed=seed))
    if math.prod(again.shape) > 40:
        assert not np.array_equal(again, other)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("family", FAMILIES)
def test_cat_is_all_parents_at_once(family, tmp_path):
    """What PEFT's layers put out with all adapters active, each scaling times its weight, and with ΔW in their weight."""
    drawn = draw_model(family, 1, tmp_path)
    sources = [Source(folder, weight) for folder, weight in zip(drawn.folders, drawn.weights, strict=True)]

    merge(sources, method="cat", out=tmp_path / "out")

    found = deltas(tmp_path / "out")
    drawn.model.base_model.set_adapter(drawn.names)
    for name, layer in drawn.model.base_model.model.named_modules():
        if not isinstance(layer, peft.tuners.lora.LoraLayer):
            continue
        for adapter, weight in zip(drawn.names, drawn.weights, strict=True):
            if adapter in layer.scaling:
                layer.scaling[adapter] *= weight
        together, alone = outputs(layer), copy.deepcopy(layer.base_layer)
        before = outputs(alone)
        add(alone, torch.from_numpy(found.pop(name)))
        assert float((outputs(alone) - together).norm()) < 1e-5 * float((together - before).norm())
    assert not found


def outputs(layer):
    base = getattr(layer, "base_layer", layer)
    generator = torch.Generator().manual_seed(0)
    if isinstance(base, nn.Embedding):
        inputs = torch.arange(base.num_embeddings)
    elif isinstance(base, nn.Conv2d):
        inputs = torch.randn(2, base.in_channels, 5, 5, generator=generator)
    else:
        columns = base.nx if isinstance(base, transformers.pytorch_utils.Conv1D) else base.in_features
        inputs = torch.randn(20, columns, generator=generator)
    with torch.no_grad():
        return layer(inputs)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_recipe_gives_the_same_bytes(method, tmp_path):
    """On one thread and on two, and again."""
    folders = []
    for seed in (1, 2):
        tensors = {}
        for layer in range(4):
            tensors |= linear(f"l.{layer}.q", inputs=20, outputs=16, rank=4, seed=100 * seed + layer)
        folders.append(write_adapter(tmp_path / str(seed), tensors))
    sources = [Source(folder, 0.5) for folder in folders[: METHODS[method].most]]

    for name, jobs in (("one", 1), ("two", 2), ("again", 2)):
        merge(sources, method=method, jobs=jobs, out=tmp_path / name)

    files = {(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("one", "two", "again")}
    assert len(files) == 1
