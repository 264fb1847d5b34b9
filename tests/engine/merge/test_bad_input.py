"""What every method does with parents that are strange but not wrong, and the closed table of refusals."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import engine.compat.together
import engine.merge
from engine.compat.together.refusals import MEANINGS, refusal
from engine.errors import OptionError, RefusedError
from engine.merge import METHODS, Options, RankRule, Source, merge, plan
from tests.engine.merge.factories import PREFIX, conv, deltas, distance, linear, normal, weighted, write_adapter

SUMS = ("cat", "linear", "svd")
"""Methods whose result is Σ w_i·ΔW_i where the rank allows."""


def sources(folders, method):
    """As many of the folders as the method takes, evenly weighted."""
    most = METHODS[method].most or len(folders)
    taken = folders[:most]
    return [Source(folder, 1 / len(taken)) for folder in taken]


def whole(method):
    """All ranks, and everything kept where the method would drop or trim."""
    row = METHODS[method]
    rule = RankRule() if row.stacks else RankRule("max")
    return {"rule": rule, "options": Options(density=1.0) if "density" in row.defaults else Options()}


def one(folder, seed):
    return write_adapter(folder, linear("one", inputs=16, outputs=12, rank=4, seed=seed))


@pytest.mark.parametrize("method", METHODS)
def test_a_grouped_convolution_is_merged_as_a_module_for_each_group(tmp_path, method):
    """Expected from the same method on Linear modules with the groups' own factors, scaling 9/4 in both."""
    folders, apart = [], []
    for seed in (1, 2):
        tensors = conv("c", inputs=3, outputs=8, kernel=(2,), rank=4, seed=seed, groups=2)
        folders.append(write_adapter(tmp_path / f"conv{seed}", tensors))
        A, B = (tensors[f"{PREFIX}c.lora_{letter}.weight"].flatten(1) for letter in "AB")
        pairs = {
            f"{PREFIX}m.g{group}.lora_{letter}.weight": chunk.contiguous()
            for letter, whole_factor in (("A", A), ("B", B))
            for group, chunk in enumerate(whole_factor.chunk(2))
        }
        apart.append(write_adapter(tmp_path / f"linear{seed}", pairs, r=2, lora_alpha=4.5))

    merge(sources(folders, method), method=method, out=tmp_path / "out", **whole(method))
    merge(sources(apart, method), method=method, out=tmp_path / "apart", **whole(method))

    found, wanted = deltas(tmp_path / "out")["c"], deltas(tmp_path / "apart")
    assert distance(found[:4], wanted["m.g0"]) < 1e-5
    assert distance(found[4:], wanted["m.g1"]) < 1e-5


@pytest.mark.parametrize("method", METHODS)
def test_parents_of_zeros_give_zeros(tmp_path, method):
    tensors = {name: torch.zeros_like(value) for name, value in linear("one", inputs=16, outputs=12, rank=4,
               seed=1).items()}  # fmt: skip
    folders = [write_adapter(tmp_path / name, tensors) for name in "ab"]

    report = merge(sources(folders, method), method=method, out=tmp_path / "out", **whole(method))

    found = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert not deltas(tmp_path / "out")["one"].any()
    assert all(bool(value.isfinite().all()) for value in found.values())
    assert (report.norm, report.energy_kept, report.relative_error) == (0.0, 1.0, 0.0)
    assert report.parents[0].cosine is None


@pytest.mark.parametrize("method", [name for name, row in METHODS.items() if row.most is None])
def test_the_same_parent_twice_is_that_parent(tmp_path, method):
    """The union has half the rank it seems to have. Halves of equal parents are the parent, for sums and for means;
    TIES keeps Σ w·x / Σ w of equal signs, which is the parent too.
    """
    folder = one(tmp_path / "a", 1)

    merge([Source(folder, 0.5), Source(folder, 0.5)], method=method, out=tmp_path / "out", **whole(method))

    own, found = deltas(folder)["one"], deltas(tmp_path / "out")["one"]
    if method == "tsv_m":
        # Orthogonalising two equal bases splits every singular value in two: only the direction is the parent's.
        assert float((own * found).sum()) > 0
    else:
        assert distance(found, own) < 1e-5


@pytest.mark.parametrize("method", [name for name, row in METHODS.items() if row.fewest == 1])
def test_one_parent_is_itself(tmp_path, method):
    folder = one(tmp_path / "a", 1)

    merge([Source(folder, 1.0)], method=method, out=tmp_path / "out", **whole(method))

    assert distance(deltas(tmp_path / "out")["one"], deltas(folder)["one"]) < 1e-5


@pytest.mark.parametrize("method", [name for name, row in METHODS.items() if row.fewest > 1])
def test_one_parent_is_too_few_for_the_others(tmp_path, method):
    with pytest.raises(OptionError, match="not 1"):
        plan([Source(one(tmp_path / "a", 1), 1.0)], method=method)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("method", METHODS)
def test_a_value_that_is_not_finite_is_refused(tmp_path, method, value):
    folders = [one(tmp_path / name, seed) for seed, name in enumerate("ab", 1)]
    tensors = load_file(folders[0] / "adapter_model.safetensors")
    tensors[f"{PREFIX}one.lora_A.weight"][2, 3] = value
    save_file(tensors, folders[0] / "adapter_model.safetensors", metadata={"format": "pt"})

    with pytest.raises(RefusedError) as caught:
        merge(sources(folders, method), method=method, out=tmp_path / "out", **whole(method))

    assert [(finding.rule, finding.where) for finding in caught.value.findings] == [("merge-values", "one")]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", [name for name, row in METHODS.items() if not row.stacks])
def test_a_rank_above_the_smaller_side_is_the_smaller_side_at_most(tmp_path, method):
    folders = [one(tmp_path / name, seed) for seed, name in enumerate("ab", 1)]
    options = whole(method)["options"]

    planned = plan(sources(folders, method), method=method, rule=RankRule(1000), options=options)

    assert planned.rank == (12 if METHODS[method].dense else 4 * len(sources(folders, method)))


@pytest.mark.parametrize("method", SUMS)
def test_parents_that_share_no_module_keep_their_own(tmp_path, method):
    folders = [
        one(tmp_path / "a", 1),
        write_adapter(tmp_path / "b", linear("two", inputs=6, outputs=12, rank=4, seed=2)),
    ]

    merge([Source(folders[0], 0.7), Source(folders[1], -0.4)], method=method, out=tmp_path / "out")

    wanted, found = weighted(folders, (0.7, -0.4)), deltas(tmp_path / "out")
    assert found.keys() == wanted.keys()
    assert max(distance(found[name], wanted[name]) for name in wanted) < 1e-6


def test_the_rules_in_the_code_are_those_of_the_table():
    places = (Path(engine.merge.__file__).parent, Path(engine.compat.together.__file__).parent)
    # together/merge.py adds what only the question before a merge says
    code = "".join(path.read_text() for place in places for path in place.rglob("*.py") if path.name != "merge.py")

    assert set(re.findall(r'"(merge-[a-z-]+)"', code)) == set(MEANINGS)


def test_a_rule_outside_the_table_is_a_mistake():
    with pytest.raises(ValueError, match="merge-nothing is no merge rule"):
        refusal("merge-nothing", "x")


def test_the_readmes_name_every_rule():
    text = "".join(path.read_text() for path in Path(engine.merge.__file__).parent.rglob("README.md"))

    assert [rule for rule in MEANINGS if f"`{rule}`" not in text] == []


HEAD = {f"{PREFIX}head.weight": normal(1, 5, 12)}
BIAS = {f"{PREFIX}one.base_layer.bias": normal(1, 12)}
ROWS = {f"{PREFIX}emb.token_adapter.trainable_tokens_delta": normal(1, 2, 12)}
INNER = {f"{PREFIX}one.lora_B.bias": normal(1, 12)}

EVERY = {
    "merge-type": ({}, {"use_qalora": True}, {}),
    "merge-dora": ({}, {"use_dora": True}, {}),
    "merge-mutated-base": ({}, {"init_lora_weights": "pissa"}, {}),
    "merge-tensors": ({f"{PREFIX}three.weight": normal(1, 2, 2)}, {}, {}),
    "merge-values": ({f"{PREFIX}one.lora_A.weight": torch.ones(4, 16, dtype=torch.int8)}, {}, {}),
    "merge-shapes": ({f"{PREFIX}one.lora_B.weight": normal(1, 12, 3)}, {}, {}),
    "merge-replication": ({}, {"layer_replication": [[0, 2]]}, {}),
    "merge-target-parameters": ({}, {"target_modules": [], "target_parameters": ["one.w"], "r": 3}, {}),
    "merge-modules-to-save": (HEAD, {"modules_to_save": ["head"]}, {}),
    "merge-bias": (BIAS, {"bias": "all"}, {}),
    "merge-trainable-tokens": (ROWS, {"trainable_token_indices": {"emb": [1, 2]}}, {}),
    "merge-lora-bias": (INNER, {"lora_bias": True}, {"method": "slerp"}),
    "merge-peft": (HEAD, {"modules_to_save": ["head"]}, {"semantics": "peft", "other": "first"}),
}
"""A pair of parents, or one beside a plain one, for each rule: extra tensors, config, options of the merge."""


@pytest.mark.parametrize("rule", MEANINGS)
def test_every_rule_of_the_table_refuses_something(tmp_path, rule):
    extra, config, options = EVERY[rule]
    tensors = linear("one", inputs=16, outputs=12, rank=4, seed=1) | extra
    odd = [write_adapter(tmp_path / name, tensors, **config) for name in "ab"]
    parents = [one(tmp_path / "plain", 2), *odd][: 2 if rule in ("merge-replication", "merge-lora-bias") else 3]
    if rule == "merge-target-parameters":
        parents = odd

    with pytest.raises(RefusedError) as caught:
        plan([Source(folder, 0.5) for folder in parents], **{"method": "svd", **options})

    assert {finding.rule for finding in caught.value.findings} == {rule}


def test_attention_and_its_projection_adapted_apart(tmp_path):
    """PEFT writes eight tensors for targets `mha` and `out_proj`, two of them the base's own and never used right."""
    tensors = (
        linear("mha", inputs=12, outputs=36, rank=4, seed=1)
        | linear("mha.base_layer.out_proj", inputs=12, outputs=12, rank=4, seed=2)
        | linear("mha.out_proj", inputs=12, outputs=12, rank=4, seed=3)
        | {f"{PREFIX}mha.out_proj.base_layer.weight": normal(4, 12, 12)}
        | {f"{PREFIX}mha.out_proj.base_layer.bias": normal(5, 12)}
    )
    folder = write_adapter(tmp_path / "a", tensors, target_modules=["mha", "out_proj"])

    with pytest.raises(RefusedError) as caught:
        plan([Source(folder, 1.0)], method="cat")

    assert {finding.rule for finding in caught.value.findings} == {"merge-tensors"}
