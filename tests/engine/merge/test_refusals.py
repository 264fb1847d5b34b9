"""Every reason to refuse, planted; and what must not be refused."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.compat.together.extras import RULE
from engine.compat.together.refusals import RULES
from engine.errors import OptionError, RefusedError
from engine.merge import Options, RankRule, Source, merge, plan
from tests.engine.merge.factories import PREFIX, conv, embedding, linear, normal, write_adapter

ONE = PREFIX + "one."


def tensors(seed=1, rank=4, **shape):
    return linear("one", inputs=16, outputs=12, rank=rank, seed=seed) | linear(
        "two", inputs=16, outputs=12, rank=rank, seed=seed + 9
    )


def refused(*folders):
    with pytest.raises(RefusedError) as caught:
        plan([Source(folder, 0.5) for folder in folders], method="svd")
    assert all(finding.severity == "error" for finding in caught.value.findings)
    return caught.value.findings


PLANTED = {
    "dora": ("merge-dora", {"use_dora": True}, {ONE + "lora_magnitude_vector": normal(1, 12)}),
    "alora": ("merge-type", {"alora_invocation_tokens": [5, 6], "task_type": "CAUSAL_LM"}, {}),
    "qalora": ("merge-type", {"use_qalora": True}, {}),
    "bdlora": ("merge-type", {"use_bdlora": {"nblocks": 2}}, {}),
    "arrow": ("merge-type", {"arrow_config": {"top_k": 2}}, {}),
    "velora": ("merge-type", {"velora_config": {"num_groups": 2}}, {}),
    "montecarlo": ("merge-type", {"monteclora_config": {"monteclora_n": 2}}, {}),
    "kasa": ("merge-mutated-base", {"kasa_config": {"beta": 0.1}}, {ONE + "lora_diag": normal(1, 4)}),
    **{
        start: ("merge-mutated-base", {"init_lora_weights": start, **more}, {})
        for start, more in {
            "pissa": {},
            "pissa_niter_4": {},
            "olora": {},
            "OLoRA": {},
            "corda": {},
            "lora_ga": {},
            "loftq": {"loftq_config": {"loftq_bits": 4}},
        }.items()
    },
    "half a pair": ("merge-tensors", {}, {PREFIX + "three.lora_A.weight": normal(1, 4, 16)}),
    "stray tensor": ("merge-tensors", {}, {PREFIX + "three.weight": normal(1, 4, 16)}),
    "whole numbers": ("merge-values", {}, {ONE + "lora_A.weight": torch.ones(4, 16, dtype=torch.int8)}),
    "rank against config": ("merge-shapes", {"r": 3}, {}),
    "B of another rank": ("merge-shapes", {}, {ONE + "lora_B.weight": normal(1, 12, 2)}),
}


@pytest.mark.parametrize("name", PLANTED)
def test_what_cannot_be_carried_is_refused_by_name(tmp_path, name):
    rule, config, extra = PLANTED[name]
    plain = write_adapter(tmp_path / "plain", tensors())
    odd = write_adapter(tmp_path / "odd", tensors() | extra, **config)

    findings = refused(plain, odd)

    assert {finding.rule for finding in findings} == {rule}
    assert all("odd" in finding.message or finding.where for finding in findings)


@pytest.mark.parametrize("name", PLANTED)
def test_a_single_parent_is_refused_too(tmp_path, name):
    rule, config, extra = PLANTED[name]

    assert {finding.rule for finding in refused(write_adapter(tmp_path / "odd", tensors() | extra, **config))} == {rule}


@pytest.mark.parametrize("start", [True, False, "gaussian", "eva", "orthogonal", "mica"])
def test_starts_that_leave_the_base_alone_are_merged(tmp_path, start):
    folder = write_adapter(tmp_path / "a", tensors(), init_lora_weights=start)

    planned = plan([Source(folder, 1.0)], method="svd")

    assert planned.config["init_lora_weights"] is True


def test_other_types(tmp_path):
    folder = write_adapter(tmp_path / "a", {f"{PREFIX}one.ia3_l": normal(1, 12, 1)}, peft_type="IA3")

    findings = refused(folder)

    assert [finding.rule for finding in findings] == ["merge-type"]
    assert "IA3" in findings[0].message


@pytest.mark.parametrize(("one", "other"), [(None, [[0, 2], [1, 2]]), ([[0, 2]], [[0, 1]])])
def test_different_replication(tmp_path, one, other):
    folders = [
        write_adapter(tmp_path / str(place), tensors(), layer_replication=layout)
        for place, layout in enumerate((one, other))
    ]

    assert [finding.rule for finding in refused(*folders)] == ["merge-replication"]


def test_equal_replication_is_kept(tmp_path):
    folders = [write_adapter(tmp_path / name, tensors(), layer_replication=[[0, 2], [1, 2]]) for name in "ab"]

    assert plan([Source(f, 0.5) for f in folders], method="cat").config["layer_replication"] == [[0, 2], [1, 2]]


def test_trained_copies_in_several_parents(tmp_path):
    head = {PREFIX + "head.weight": normal(1, 5, 12)}
    folders = [write_adapter(tmp_path / name, tensors() | head, modules_to_save=["head"]) for name in "ab"]

    assert [finding.rule for finding in refused(*folders)] == [RULE]


def test_factors_below_anothers_trained_copy(tmp_path):
    """PEFT saves every module whose name ends in the entry: `head` takes `lm_head` too."""
    saving = tensors() | {PREFIX + "lm_head.weight": normal(1, 5, 12)}
    adapting = tensors() | linear("lm_head", inputs=12, outputs=5, rank=4, seed=3)
    folders = [
        write_adapter(tmp_path / "a", saving, modules_to_save=["head"]),
        write_adapter(tmp_path / "b", adapting),
    ]

    findings = refused(*folders)

    assert [(finding.rule, finding.where) for finding in findings] == [(RULE, "lm_head")]


def test_factors_whose_name_only_ends_in_the_entry(tmp_path):
    """The saving parent's file has `head` alone; loaded over the merge, PEFT would still wrap `lm_head`."""
    saving = write_adapter(
        tmp_path / "a", tensors() | {PREFIX + "head.weight": normal(1, 5, 12)}, modules_to_save=["head"]
    )
    adapting = write_adapter(tmp_path / "b", linear("lm_head", inputs=12, outputs=5, rank=4, seed=3))

    assert [(finding.rule, finding.where) for finding in refused(saving, adapting)] == [(RULE, "lm_head")]


def test_saved_embeddings_that_differ(tmp_path):
    folders = [
        write_adapter(tmp_path / str(seed), tensors() | {PREFIX + "lm_head.weight": normal(seed, 5, 12)})
        for seed in (1, 2)
    ]

    assert [(f.rule, f.where) for f in refused(*folders)] == [(RULE, PREFIX + "lm_head.weight")]


OTHER_SHAPES = {
    "inputs": linear("one", inputs=15, outputs=12, rank=4, seed=1),
    "outputs": linear("one", inputs=16, outputs=13, rank=4, seed=1),
    "embedding": embedding("one", vocabulary=16, width=12, rank=4, seed=1),
    "conv": conv("one", inputs=16, outputs=12, kernel=(1,), rank=4, seed=1),
}


@pytest.mark.parametrize("name", OTHER_SHAPES)
def test_one_module_of_two_shapes(tmp_path, name):
    plain = write_adapter(tmp_path / "a", tensors())
    other = write_adapter(tmp_path / "b", OTHER_SHAPES[name])

    assert [(f.rule, f.where) for f in refused(plain, other)] == [("merge-shapes", "one")]


def test_different_groups(tmp_path):
    folders = [
        write_adapter(tmp_path / str(g), conv("c", inputs=4, outputs=8, kernel=(3,), rank=4, seed=1, groups=g))
        for g in (1, 2)
    ]

    assert [finding.rule for finding in refused(*folders)] == ["merge-shapes"]


def test_all_reasons_are_given_at_once_and_nothing_is_written(tmp_path):
    dora = write_adapter(tmp_path / "a", tensors(), use_dora=True, init_lora_weights="olora")
    bias = write_adapter(tmp_path / "b", tensors(), use_qalora=True)

    with pytest.raises(RefusedError) as caught:
        merge([Source(dora, 0.5), Source(bias, 0.5)], method="svd", out=tmp_path / "out")

    assert [f.rule for f in caught.value.findings] == ["merge-mutated-base", "merge-type", "merge-dora"]
    assert not (tmp_path / "out").exists()


def test_every_rule_is_planted():
    """The table and this file cannot drift apart."""
    planted = {rule for rule, _, _ in PLANTED.values()}

    assert set(RULES) <= planted


OPTIONS = {
    "method": ({"method": "median"}, "expected one of cat, linear, svd"),
    "rank zero": ({"rank": 0}, "expected 1 or more"),
    "negative rank": ({"rank": -3}, "expected 1 or more"),
    "rank word": ({"rank": "min"}, "expected 1 or more, or max"),
    "rank of cat": ({"method": "cat", "rank": 4}, "use svd"),
    "rank of linear": ({"method": "linear", "rank": 4}, "use svd"),
    "lambda beyond floats": ({"method": "tsv_m", "options": Options(scale=10**400)}, "lambda 1000.*finite"),
    "dtype": ({"dtype": "int8"}, "expected one of"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_out_of_range(tmp_path, name):
    options, message = OPTIONS[name]
    folder = write_adapter(tmp_path / "a", tensors())

    with pytest.raises(OptionError, match=message):
        merged = {"method": "svd", "rank": None, **options}
        plan([Source(folder, 1.0)], rule=RankRule(merged.pop("rank")), **merged)


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), float("-inf")])
def test_weights_are_finite(tmp_path, weight):
    with pytest.raises(OptionError, match="not a finite number"):
        plan([Source(tmp_path, weight)], method="svd")


def test_no_source():
    with pytest.raises(OptionError, match="at least 1 adapter, not 0"):
        plan([], method="svd")


def test_planning_reads_no_tensor(tmp_path):
    """NaN in a parent is found by merging, not by planning."""
    folder = write_adapter(tmp_path / "a", tensors())
    weights = load_file(folder / "adapter_model.safetensors")
    weights[ONE + "lora_A.weight"][:] = float("nan")
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})

    assert plan([Source(folder, 1.0)], method="svd").rank == 4


def test_a_module_of_the_plan_names_pefts_tensors(tmp_path):
    """Parents without PEFT's prefix are read, the result has it."""
    bare = {key.removeprefix(PREFIX): value for key, value in tensors().items()}
    folder = write_adapter(tmp_path / "a", bare, target_modules=["one", "two"])
    json.loads((folder / "adapter_config.json").read_text())

    first = plan([Source(folder, 1.0)], method="svd").modules[0]

    assert (first.a_key, first.b_key) == (ONE + "lora_A.weight", ONE + "lora_B.weight")


def test_options_are_named_as_they_are_written(tmp_path):
    folder = write_adapter(tmp_path / "a", tensors())

    with pytest.raises(
        OptionError, match=r"takes no seed \(options it takes: density, rescale, lambda, elect, majority-sign\)"
    ):
        plan([Source(folder, 1.0)], method="core_ties", options=Options(seed=1))
