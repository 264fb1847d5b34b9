"""PEFT's quirks, one test for each number of docs/methods/semantics-peft.md."""

import copy
import json
import math
import re
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from engine.errors import OptionError, RefusedError
from engine.merge import Options, RankRule, Source, merge, plan
from tests.engine.merge.factories import (
    conv,
    deltas,
    distance,
    embedding,
    linear,
    normal,
    pairs,
    weighted,
    write_adapter,
)

PAGE = Path(__file__).parents[4] / "docs" / "methods" / "semantics-peft.md"
FACTORWISE = ("linear", "ties", "dare_linear", "dare_ties", "magnitude_prune")
DENSE = ("svd", "ties_svd", "dare_linear_svd", "dare_ties_svd", "magnitude_prune_svd")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def parent(folder, seed, *, rank=4, module="m", inputs=12, outputs=10, **config):
    tensors = linear(module, inputs=inputs, outputs=outputs, rank=rank, seed=seed)
    return write_adapter(folder / f"p{seed}", tensors, r=rank, lora_alpha=7, **config)


def run(folders, out, method, *, weights=(0.7, -0.4), rank=None, dtype=None, **options):
    if method not in ("cat", "linear", "svd"):
        options = {"density": 0.5, **options}
    sources = [Source(folder, weight) for folder, weight in zip(folders, weights, strict=False)]
    return merge(
        sources,
        method=method,
        semantics="peft",
        rule=RankRule(rank),
        options=Options(**options),
        dtype=dtype,
        out=out,
    )


def refused(folders, method, **options):
    """The messages of what stops the plan."""
    if method not in ("cat", "linear", "svd"):
        options = {"density": 0.5, **options}
    sources = [Source(folder, 1.0) for folder in folders]
    with pytest.raises(RefusedError) as caught:
        plan(sources, method=method, semantics="peft", options=Options(**options))
    assert {finding.rule for finding in caught.value.findings} == {"merge-peft"}
    return "\n".join(finding.message for finding in caught.value.findings)


def loaded(base, folders, **options):
    """A PEFT model with the adapters p0, p1, … from files."""
    model = peft.PeftModel.from_pretrained(copy.deepcopy(base), folders[0], adapter_name="p0", **options)
    for place, folder in enumerate(folders[1:], 1):
        model.load_adapter(folder, f"p{place}", **options)
    return model


def by_peft(model, method, *, weights=(0.7, -0.4), count=2, module="m", **options):
    names = [f"p{place}" for place in range(count)]
    model.base_model.add_weighted_adapter(names, list(weights), "merged", combination_type=method, **options)
    layer = model.base_model.model.get_submodule(module)
    product = layer.lora_B["merged"].weight.double() @ layer.lora_A["merged"].weight.double()
    return (layer.scaling["merged"] * product).detach().numpy()


def base(dtype=torch.float32):
    return nn.ModuleDict({"m": nn.Linear(12, 10, bias=False, dtype=dtype)})


def test_every_number_of_the_page_has_a_test():
    numbers = [int(number) for number in re.findall(r"^(\d+)\. ", PAGE.read_text(encoding="utf-8"), re.MULTILINE)]
    tested = [int(number) for number in re.findall(r"^def test_(\d+)_", Path(__file__).read_text(), re.MULTILINE)]

    assert numbers == list(range(1, len(numbers) + 1))
    assert sorted(set(tested)) == numbers


def test_1_linear_adds_cross_terms(tmp_path):
    """B_1 = B_2 = 1 and A_1 = 1, A_2 = 2: with weights ½ the sum is 1.5 and PEFT's product (√½ + √½)·(√½ + 2√½) = 3."""
    folders = []
    for seed, value in ((1, 1.0), (2, 2.0)):
        tensors = {
            "base_model.model.m.lora_A.weight": torch.full((1, 1), value),
            "base_model.model.m.lora_B.weight": torch.ones(1, 1),
        }
        folders.append(write_adapter(tmp_path / str(seed), tensors, r=1, lora_alpha=1))

    report = run(folders, tmp_path / "out", "linear", weights=(0.5, 0.5))

    assert deltas(tmp_path / "out")["m"] == pytest.approx(3.0)
    assert report.cross_terms == pytest.approx(1.0)
    assert report.per_module[0].cross_terms == pytest.approx(1.0)
    assert report.relative_error < 1e-6


def test_1_the_report_measures_the_cross_terms(tmp_path):
    folders = [parent(tmp_path, 1), parent(tmp_path, 2)]

    report = run(folders, tmp_path / "out", "ties")

    exact, found = weighted(folders, (0.7, -0.4))["m"], deltas(tmp_path / "out")["m"]
    assert report.cross_terms == pytest.approx(np.linalg.norm(found - exact) / np.linalg.norm(exact), rel=1e-5)


def test_2_a_sign_stands_on_one_side_only(tmp_path):
    """Two weights of -1 give the negative of two weights of 1, cross terms and all."""
    folders = [parent(tmp_path, 1), parent(tmp_path, 2)]

    run(folders, tmp_path / "plus", "linear", weights=(1, 1))
    run(folders, tmp_path / "minus", "linear", weights=(-1, -1))

    assert distance(deltas(tmp_path / "minus")["m"], -deltas(tmp_path / "plus")["m"]) < 1e-6


def test_3_elections_do_not_see_the_weights(tmp_path):
    """D_1 = 3 and D_2 = -2: + is elected though w_2·D_2 weighs more, and the mean divides by the number that agree."""
    folders = []
    for seed, value in ((1, 3.0), (2, -2.0)):
        tensors = {
            "base_model.model.m.lora_A.weight": torch.full((1, 1), value),
            "base_model.model.m.lora_B.weight": torch.ones(1, 1),
        }
        folders.append(write_adapter(tmp_path / str(seed), tensors, r=1, lora_alpha=1))

    run(folders, tmp_path / "out", "ties_svd", weights=(0.1, 5.0), density=1.0)

    assert deltas(tmp_path / "out")["m"] == pytest.approx(0.3)


@pytest.mark.parametrize("method", [*FACTORWISE, *DENSE, "cat"])
def test_4_one_adapter_is_always_merged_by_linear(tmp_path, method):
    """Whatever the type, density and rank: w·ΔW, exact."""
    folder = parent(tmp_path, 1)

    run([folder], tmp_path / "out", method, weights=(-2.0,), rank=1 if method == "svd" else None)

    assert distance(deltas(tmp_path / "out")["m"], -2 * deltas(folder)["m"]) < 1e-6


@pytest.mark.parametrize(("method", "rank"), [("cat", 8), ("svd", 4), ("linear", 4)])
def test_5_rslora_of_the_first_parent_multiplies_the_result(tmp_path, method, rank):
    """By the root of the result's r, in PEFT as in ours."""
    folders = [parent(tmp_path, 1, use_rslora=True), parent(tmp_path, 2)]
    expected = by_peft(loaded(base(), folders), method)

    run(folders, tmp_path / "out", method)

    assert distance(deltas(tmp_path / "out")["m"], expected) < 1e-5
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["use_rslora"] is False
    if method == "cat":
        exact = math.sqrt(rank) * weighted(folders, (0.7, -0.4))["m"]
        assert distance(deltas(tmp_path / "out")["m"], exact) < 1e-6


def halves(folder):
    """Two parents in bf16."""
    for seed in (1, 2):
        tensors = linear("m", inputs=12, outputs=10, rank=4, seed=seed, dtype=torch.bfloat16)
        yield write_adapter(folder / str(seed), tensors, r=4, lora_alpha=7)


@pytest.mark.parametrize("method", ["cat", "linear", "svd"])
def test_6_the_result_is_float32_whatever_the_parents(tmp_path, method):
    folders = list(halves(tmp_path))
    expected = by_peft(loaded(base(), folders), method)

    run(folders, tmp_path / "out", method)

    assert distance(deltas(tmp_path / "out")["m"], expected) < 1e-5
    tensors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert {value.dtype for value in tensors.values()} == {torch.float32}


def test_6_cat_on_a_base_of_bf16_rounds_once(tmp_path):
    """The new adapter has the base's dtype, into which PEFT copies; so does ours where that dtype is asked for."""
    folders = list(halves(tmp_path))
    expected = by_peft(loaded(base(torch.bfloat16), folders), "cat")

    run(folders, tmp_path / "single", "cat")
    run(folders, tmp_path / "half", "cat", dtype="bf16")

    assert 1e-4 < distance(deltas(tmp_path / "single")["m"], expected) < 1e-2
    assert distance(deltas(tmp_path / "half")["m"], expected) < 1e-6


def test_7_random_numbers_come_from_one_generator(tmp_path):
    """Module after module in natural order, every A before every B."""
    tensors = [
        {
            **linear("layers.2.q", inputs=9, outputs=8, rank=3, seed=seed),
            **linear("layers.10.q", inputs=9, outputs=8, rank=3, seed=seed + 50),
        }
        for seed in (1, 2)
    ]
    folders = [write_adapter(tmp_path / str(seed), one, r=3, lora_alpha=7) for seed, one in enumerate(tensors)]

    run(folders, tmp_path / "out", "dare_linear", weights=(1, 1), seed=5)

    generator = torch.Generator().manual_seed(5)
    root = math.sqrt(7 / 3)
    for module in ("layers.2.q", "layers.10.q"):
        sums = []
        for letter in "AB":
            found = [one[f"base_model.model.{module}.lora_{letter}.weight"] for one in tensors]
            masks = [torch.bernoulli(torch.full(one.shape, 0.5), generator=generator) for one in found]
            sums.append(sum(root * one * mask / 0.5 for one, mask in zip(found, masks, strict=True)))
        A, B = sums
        assert distance(deltas(tmp_path / "out")[module], (B.double() @ A.double()).numpy()) < 1e-6


@pytest.mark.parametrize("method", ["dare_ties", "dare_linear_svd"])
def test_7_threads_do_not_change_what_is_drawn(tmp_path, method):
    tensors = {}
    for layer in range(6):
        tensors |= linear(f"layers.{layer}.q", inputs=9, outputs=8, rank=3, seed=layer)
    folders = [write_adapter(tmp_path / name, tensors, r=3, lora_alpha=7) for name in "ab"]
    sources = [Source(folder, 1.0) for folder in folders]

    for jobs in (1, 2):
        merge(
            sources,
            method=method,
            semantics="peft",
            options=Options(density=0.5),
            out=tmp_path / f"out{jobs}",
            jobs=jobs,
        )

    one, two = ((tmp_path / f"out{jobs}" / "adapter_model.safetensors").read_bytes() for jobs in (1, 2))
    assert one == two


def test_8_a_density_must_be_given(tmp_path):
    folders = [parent(tmp_path, 1), parent(tmp_path, 2)]

    with pytest.raises(OptionError, match="ties has no density of its own here: give one"):
        plan([Source(folder, 1.0) for folder in folders], method="ties", semantics="peft")


@pytest.mark.parametrize("option", [{"trim": "global"}, {"rescale": "none"}, {"elect": "weighted"}, {"scale": 0.5}])
def test_9_options_that_peft_lacks_are_refused(tmp_path, option):
    with pytest.raises(OptionError, match="ties takes no"):
        run([parent(tmp_path, 1), parent(tmp_path, 2)], tmp_path / "out", "ties", **option)


@pytest.mark.parametrize("rule", [RankRule("max"), RankRule(energy=0.9), RankRule(budget=10**6)])
def test_9_rank_rules_that_peft_lacks_are_refused(tmp_path, rule):
    sources = [Source(parent(tmp_path, seed), 1.0) for seed in (1, 2)]

    with pytest.raises(OptionError, match="takes a number as its rank, or none"):
        plan(sources, method="svd", semantics="peft", rule=rule)


def test_9_methods_that_peft_lacks_are_refused(tmp_path):
    with pytest.raises(OptionError, match="merge method 'slerp' under peft semantics: expected one of cat, linear, "):
        run([parent(tmp_path, 1), parent(tmp_path, 2)], tmp_path / "out", "slerp")


def test_9_other_semantics_are_refused(tmp_path):
    sources = [Source(parent(tmp_path, 1), 1.0)]

    with pytest.raises(OptionError, match="semantics 'mergekit': expected one of exact, peft"):
        plan(sources, method="svd", semantics="mergekit")


@pytest.mark.parametrize("method", FACTORWISE)
def test_10_types_on_factors_take_no_rank(tmp_path, method):
    with pytest.raises(OptionError, match="takes no other"):
        run([parent(tmp_path, 1), parent(tmp_path, 2)], tmp_path / "out", method, rank=3)


@pytest.mark.parametrize("method", FACTORWISE)
def test_10_types_on_factors_want_one_rank(tmp_path, method):
    message = refused([parent(tmp_path, 1, rank=4), parent(tmp_path, 2, rank=3)], method)

    assert "PEFT wants one rank of all parents here, not 4, 3" in message
    assert "m: PEFT cannot stack factors of ranks 4, 3" in message


def test_11_the_rank_is_what_the_configs_speak_of(tmp_path):
    """A rank_pattern that no module has still counts: r of the result is 9, so nothing of rank 4 + 4 is cut."""
    folders = [parent(tmp_path, 1), parent(tmp_path, 2, rank_pattern={"elsewhere": 9})]

    run(folders, tmp_path / "out", "svd")

    assert distance(deltas(tmp_path / "out")["m"], weighted(folders, (0.7, -0.4))["m"]) < 1e-6


def test_12_a_rank_above_the_smaller_side_is_that_side(tmp_path):
    """PEFT writes tensors of rank 3 under a config of r=9, which it cannot load."""
    folders = [parent(tmp_path, seed, rank=2, outputs=3) for seed in (1, 2)]

    run(folders, tmp_path / "out", "ties_svd", rank=9)

    assert pairs(tmp_path / "out")["m"][1].shape == (3, 12)


def test_13_trained_copies_are_refused(tmp_path):
    tensors = linear("m", inputs=12, outputs=10, rank=4, seed=1)
    head = {"base_model.model.head.weight": normal(3, 2, 10)}
    folder = write_adapter(tmp_path / "a", tensors | head, target_modules=["m"], modules_to_save=["head"])

    assert "PEFT would lose what a holds besides factors (modules_to_save)" in refused([folder], "cat")


@pytest.mark.parametrize("method", ["cat", "linear", "svd"])
def test_14_grouped_convolutions_are_refused(tmp_path, method):
    tensors = [conv("c", inputs=4, outputs=6, kernel=(3, 3), rank=4, seed=seed, groups=2) for seed in (1, 2)]
    folders = [write_adapter(tmp_path / str(place), one) for place, one in enumerate(tensors)]

    assert "c: PEFT joins the ranks of a grouped convolution" in refused(folders, method)


@pytest.mark.parametrize("kernel", [(3,), (2, 2, 1)])
@pytest.mark.parametrize("method", DENSE)
def test_15_convolutions_of_other_than_two_dimensions_are_refused(tmp_path, kernel, method):
    tensors = [conv("c", inputs=4, outputs=6, kernel=kernel, rank=2, seed=seed) for seed in (1, 2)]
    folders = [write_adapter(tmp_path / str(place), one, r=2) for place, one in enumerate(tensors)]

    assert f"c: PEFT raises on the SVD of a conv{len(kernel)}d" in refused(folders, method)


def test_15_points_of_one_channel_are_refused(tmp_path):
    tensors = [conv("c", inputs=4, outputs=1, kernel=(1, 1), rank=2, seed=seed) for seed in (1, 2)]
    folders = [write_adapter(tmp_path / str(place), one, r=2) for place, one in enumerate(tensors)]

    assert "c: PEFT raises on the SVD of a 1x1 convolution with one channel" in refused(folders, "svd")


def test_15_convolutions_smaller_than_the_rank_are_refused(tmp_path):
    tensors = [conv("c", inputs=4, outputs=3, kernel=(3, 3), rank=5, seed=seed) for seed in (1, 2)]
    folders = [write_adapter(tmp_path / str(place), one, r=5) for place, one in enumerate(tensors)]

    assert "c: PEFT raises on rank 5 of a convolution that has 3 singular values" in refused(folders, "svd")


def test_16_targets_of_two_kinds_are_refused(tmp_path):
    folders = [parent(tmp_path, 1), parent(tmp_path, 2, target_modules="m")]

    assert "PEFT does not join target_modules that are a list and a regular expression" in refused(folders, "cat")


@pytest.mark.parametrize("narrowing", [{"layers_to_transform": [0]}, {"exclude_modules": ["model.layers.1.q"]}])
def test_17_what_the_first_parent_leaves_out_is_refused(tmp_path, narrowing):
    """Its keys are the result's, which then has no place for another parent's layer."""
    folders = [
        parent(tmp_path, 1, module="model.layers.0.q") if place == 0 else parent(tmp_path, 2, module="model.layers.1.q")
        for place in range(2)
    ]
    document = json.loads((folders[0] / "adapter_config.json").read_text()) | {"target_modules": ["q"]} | narrowing
    (folders[0] / "adapter_config.json").write_text(json.dumps(document))

    assert f"the result inherits {next(iter(narrowing))} of p1" in refused(folders, "cat")
    merge([Source(folder, 1.0) for folder in folders], method="cat", out=tmp_path / "out")


def test_18_other_types_are_refused(tmp_path):
    """IA3's own weighted sum is exact and stands under exact semantics."""
    folders = []
    for name in "ab":
        tensors = {"base_model.model.m.ia3_l": torch.ones(10, 1)}
        folders.append(
            write_adapter(tmp_path / name, tensors, peft_type="IA3", target_modules=["m"], feedforward_modules=[])
        )

    with pytest.raises(RefusedError, match="peft semantics are for LORA") as refusal:
        plan([Source(folder, 1.0) for folder in folders], method="linear", semantics="peft")
    assert {finding.rule for finding in refusal.value.findings} == {"merge-type"}
    plan([Source(folder, 1.0) for folder in folders], method="linear")


def test_19_embeddings_draw_in_the_order_of_their_weight(tmp_path):
    """The weight is (vocabulary, width), ΔW = B·A its transpose."""
    tensors = [embedding("emb", vocabulary=11, width=5, rank=2, seed=seed) for seed in (1, 2)]
    folders = [write_adapter(tmp_path / str(place), one, r=2, lora_alpha=7) for place, one in enumerate(tensors)]

    run(folders, tmp_path / "out", "dare_linear_svd", weights=(1, 1), rank=5, seed=3)

    generator = torch.Generator().manual_seed(3)
    masks = [torch.bernoulli(torch.full((11, 5), 0.5), generator=generator).T.numpy() for _ in folders]
    expected = sum(deltas(folder)["emb"] * mask / 0.5 for folder, mask in zip(folders, masks, strict=True))
    assert distance(deltas(tmp_path / "out")["emb"], expected) < 1e-5
