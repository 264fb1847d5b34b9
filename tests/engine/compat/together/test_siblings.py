"""Adapters that meet, whatever for: one base, one layout of layers, one shape of each module, at least two."""

import json

import numpy as np
import pytest

from engine.compat.check import MOST_PER_RULE
from engine.compat.together.check import check_together
from engine.compat.together.group import Lineage
from engine.compat.together.question import parse_question
from engine.errors import OptionError
from tests.engine.compat.small_adapter import CONFIG, P, adapter, tensors
from tests.engine.compat.small_adapter import base as write_base

CONTENT, OTHER_CONTENT = "sha256:" + "1" * 64, "sha256:" + "2" * 64


def _rules(answer, severity="error"):
    return {finding.rule for finding in answer.findings if finding.severity == severity}


def _two(tmp_path, first=None, second=None):
    return [
        adapter(tmp_path / "one", config={**CONFIG, **(first or {})}),
        adapter(tmp_path / "two", config={**CONFIG, **(second or {})}),
    ]


@pytest.mark.parametrize("question", ["hotswap", "batch", "merge"])
def test_two_alike_have_no_finding(tmp_path, question):
    answer = check_together(_two(tmp_path), question)

    assert answer.findings == ()
    assert answer.status == "pass"


@pytest.mark.parametrize(
    ("question", "rule"), [("hotswap", "hotswap-alone"), ("batch", "batch-alone"), ("merge", "merge-count")]
)
def test_one_alone_meets_nobody(tmp_path, question, rule):
    assert _rules(check_together(_two(tmp_path)[:1], question)) == {rule}


@pytest.mark.parametrize("question", ["hotswap", "batch", "merge"])
@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (Lineage("a"), Lineage("a"), True),
        (Lineage("a"), Lineage("b"), False),
        (Lineage("a", CONTENT), Lineage("b", CONTENT), True),
        (Lineage("a", CONTENT), Lineage("a", OTHER_CONTENT), False),
        (Lineage("a", CONTENT), Lineage("a"), True),
        (Lineage("a", CONTENT), Lineage("b"), False),
    ],
)
def test_one_base_is_one_content_or_one_name(tmp_path, question, one, other, same):
    answer = check_together(_two(tmp_path), question, bases=[one, other])

    assert _rules(answer) == (set() if same else {f"{question}-base"})


@pytest.mark.parametrize("question", ["hotswap", "batch", "merge"])
def test_a_base_without_a_name_is_a_warning_beside_others(tmp_path, question):
    nameless = check_together(_two(tmp_path), question, bases=[Lineage("a"), Lineage()])

    assert _rules(nameless) == set()
    assert _rules(nameless, "warning") == {f"{question}-base-unnamed"}
    assert check_together(_two(tmp_path), question, bases=[Lineage(), Lineage()]).findings == ()


def test_a_base_named_for_all_is_one(tmp_path):
    base = write_base(tmp_path / "base")

    assert check_together(_two(tmp_path), "merge", base=base, bases=[Lineage("a"), Lineage("b")]).findings == ()


def test_the_name_in_the_config_is_the_base_by_default(tmp_path):
    answer = check_together(_two(tmp_path, {"base_model_name_or_path": "team/other"}), "hotswap")

    assert [finding.message for finding in answer.findings] == [
        "one is for base team/other, two for team/base, and it is not known that their contents are equal"
    ]


@pytest.mark.parametrize(
    ("question", "rule"),
    [("hotswap", "hotswap-replication"), ("batch", "batch-replication"), ("merge", "merge-replication")],
)
def test_layers_repeated_differently(tmp_path, question, rule):
    assert _rules(check_together(_two(tmp_path, {"layer_replication": [[0, 1]]}), question)) == {rule}


@pytest.mark.parametrize(
    ("question", "rule"), [("hotswap", "hotswap-shape"), ("batch", "batch-shape"), ("merge", "merge-shapes")]
)
def test_a_module_of_two_shapes(tmp_path, question, rule):
    wide = {**tensors(), f"{P}mlp.up_proj.lora_B.weight": np.ones((9, 2), dtype=np.float32)}
    adapters = [_two(tmp_path)[0], adapter(tmp_path / "wide", weights=wide)]

    found = check_together(adapters, question)

    assert _rules(found) == {rule}
    assert {finding.where for finding in found.findings} == {"model.layers.0.mlp.up_proj"}


def test_rows_of_an_embedding_that_another_adapts(tmp_path):
    embedding = "base_model.model.model.embed_tokens."
    factors = {
        f"{embedding}lora_embedding_A": np.ones((2, 10), dtype=np.float32),
        f"{embedding}lora_embedding_B": np.ones((4, 2), dtype=np.float32),
    }
    rows = {f"{embedding}token_adapter.trainable_tokens_delta": np.ones((1, 4), dtype=np.float32)}
    adapters = [
        adapter(tmp_path / "a", config={**CONFIG, "target_modules": ["embed_tokens"]}, weights=factors),
        adapter(tmp_path / "b", config={**CONFIG, "trainable_token_indices": [1]}, weights={**tensors(), **rows}),
    ]

    assert _rules(check_together(adapters, "batch")) == {"batch-tokens"}


def test_places_beyond_the_first_are_counted(tmp_path):
    def many(width):
        return {
            f"base_model.model.layers.{layer}.up_proj.lora_{side}.weight": np.ones(shape, dtype=np.float32)
            for layer in range(MOST_PER_RULE + 5)
            for side, shape in (("A", (2, width)), ("B", (3, 2)))
        }

    adapters = [adapter(tmp_path / str(width), weights=many(width)) for width in (4, 5)]
    for question, rule in (("hotswap", "hotswap-shape"), ("batch", "batch-shape"), ("merge", "merge-shapes")):
        found = [one for one in check_together(adapters, question).findings if one.rule == rule]

        assert len(found) == MOST_PER_RULE + 1
        assert found[-1].message == "and more places; the first 20 are listed"


@pytest.mark.parametrize("text", ["", "merge:", "merge:nope", "hotswap:svd", "batch:", "Merge", "hot swap", "x" * 500])
def test_other_questions_are_refused(text):
    with pytest.raises(OptionError) as caught:
        parse_question(text)

    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("text", "known"),
    [("merge", "merge"), ("merge:ties_svd", "merge:ties"), ("hotswap", "hotswap"), ("batch", "batch")],
)
def test_questions_read_as_they_are_written(text, known):
    assert str(parse_question(text)) == known


def test_nobody_asked_says_nothing():
    assert check_together([], "hotswap").findings == ()


def test_a_group_count_without_end_asks_for_no_such_rank(tmp_path):
    """Damaged factors can claim any number of groups."""
    primes = [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]
    weights = {}
    for prime in primes:
        weights[f"base_model.model.c{prime}.lora_A.weight"] = np.ones((prime, 1, 1), dtype=np.float32)
        weights[f"base_model.model.c{prime}.lora_B.weight"] = np.ones((1, 1, 1), dtype=np.float32)
    config = {**CONFIG, "target_modules": [f"c{prime}" for prime in primes]}
    facts = adapter(tmp_path / "a", config=json.dumps(config), weights=weights)

    assert check_together([facts, facts], "hotswap").numbers["target_rank"] == 29
