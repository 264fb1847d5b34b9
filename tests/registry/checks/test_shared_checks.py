"""Adapters that differ in values alone are asked once, and nobody can tell from the answers."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from engine.compat.check import ask, check_adapter
from engine.compat.engines.check import check_for
from engine.compat.engines.target import ENGINES, parse_target
from engine.compat.rule import Hit, Licensing, Rule, Subject
from engine.compat.rules.table import RULES
from engine.compat.shared import Shared
from engine.errors import EngineError
from engine.format.base import read_base
from registry.findings.examine import documents, examine
from registry.findings.storedfacts import SharedFacts, read_stored
from tests.registries import factors, make_adapter, make_base

if TYPE_CHECKING:
    from engine.format.facts import BaseFacts

CORPUS = Path(__file__).parents[4] / "shared" / "corpus"
TARGETS = [parse_target(name) for name in (*(one.name for one in ENGINES), "vllm@0.20.0", "peft@0.12.0")]
CONFIGS = (
    {},
    {"lora_alpha": 64},
    {"use_rslora": True},
    {"use_dora": True},
    {"target_modules": ["up_proj", "q_proj"]},
    {"target_modules": ["q_proj", "k_proj", "up_proj"]},
    {"target_modules": r".*\.(q|up)_proj"},
    {"rank_pattern": {"q_proj": 4}, "alpha_pattern": {"none": 3}},
    {"modules_to_save": ["lm_head"], "bias": "all"},
    {"layer_replication": [[0, 9]]},
    {"init_lora_weights": "pissa"},
    {"base_model_name_or_path": "/home/me/base", "trust_remote_code": True},
)
DAMAGES = ("none", "nan", "zero", "large", "half", "bare")


def damaged(tensors: dict[str, np.ndarray], damage: str) -> dict[str, np.ndarray]:
    """Factors whose values, or whose names, are wrong in one way."""
    first = next(iter(tensors))
    if damage == "nan":
        return tensors | {first: tensors[first] * np.float32("nan")}
    if damage == "zero":
        return {key: value * ("lora_A" in key) for key, value in tensors.items()}
    if damage == "large":
        return {key: value * 1e4 for key, value in tensors.items()}
    if damage == "half":
        return dict(list(tensors.items())[1:])
    if damage == "bare":
        return {key.removeprefix("base_model.model."): value for key, value in tensors.items()}
    return tensors


def drawn(folder: Path, count: int) -> list[Path]:
    """Adapters of a few configs and damages, so that many of them differ in values alone."""
    draw = random.Random(5)
    return [
        make_adapter(
            folder / str(n),
            rank=(rank := draw.choice((2, 2, 4))),
            tensors=damaged(factors(n, rank), draw.choice(DAMAGES)),
            **draw.choice(CONFIGS),
        )
        for n in range(count)
    ]


def said(facts, values, base: BaseFacts | None, shared: Shared | None) -> list:
    """All that every table says, in order."""
    around = {"files": ("README.md", "tokenizer.json"), "licensing": Licensing("mit")}
    found = [check_adapter(facts, values=values, base=base, base_known=base is not None, shared=shared, **around)]
    found += [
        check_for(facts, target, base=base, values=values, files=around["files"], shared=shared) for target in TARGETS
    ]
    return found


def stored(folder: Path) -> dict[str, str]:
    return documents(examine(folder, digest=False), spectra={}, report=None)


def compare(folders: list[Path], bases: list[BaseFacts | None]) -> tuple[int, int]:
    """Every answer beside the one without anything shared; how many adapters, and how many facts they had."""
    alike, shared, seen, compared = SharedFacts(), Shared(), {}, 0
    for folder in folders:
        try:
            kept = stored(folder)
        except EngineError:
            continue
        facts, values = alike.read(kept)
        own, measured = read_stored(kept, folder)
        assert values == measured, folder
        assert facts.modules == tuple(replace(one, norm=None, spectrum=None) for one in own.modules)
        seen[id(facts)] = facts
        compared += 1
        for base in bases:
            assert said(facts, values, base, shared) == said(own, measured, base, None), folder
    return compared, len(seen)


def test_what_is_shared_is_what_each_drawn_adapter_is_told_alone(tmp_path):
    bases = [None, *(read_base(make_base(tmp_path / f"base{n}", n)) for n in range(2))]
    bases.append(replace(bases[1], norms=dict.fromkeys(bases[1].parameters, 0.5)))
    compared, facts = compare(drawn(tmp_path, 60), bases)

    assert compared == 60
    assert facts < 50


def test_what_is_shared_is_what_strangers_adapters_are_told_alone():
    folders = sorted({path.parent for path in CORPUS.rglob("adapter_config.json")}) if CORPUS.is_dir() else []
    if not folders:
        pytest.skip("the corpus is not here")
    compared, _ = compare([*folders, *folders], [None])

    assert compared > 20


def test_a_rule_that_asks_for_no_values_is_given_none(tmp_path):
    """Else an answer about one adapter would be given about another."""
    examined = examine(make_adapter(tmp_path / "a"), digest=False)
    seen = {}

    def look(name):
        def function(subject):
            seen[name] = subject.values
            return [Hit(name)]

        return function

    rules = [Rule(needs, "info", "", needs, look(needs)) for needs in ("config", "tensors", "values")]
    subject = Subject(examined.facts, examined.values)
    for shared in (None, Shared()):
        found = ask(rules, lambda: rules, subject, shared)
        assert [one.rule for one in found] == ["config", "tensors", "values"]
        assert seen == {"config": None, "tensors": None, "values": examined.values}


def test_answers_are_asked_once_for_one_object_and_again_after_it_was_let_go(tmp_path):
    first, second = (examine(make_adapter(tmp_path / str(n), n), digest=False) for n in range(2))
    asked = []
    rule = Rule("r", "info", "", "config", lambda subject: asked.append(subject.facts) or [])
    shared, table = Shared(most=1), (rule,)
    for examined in (first, first, second, first):
        ask(table, lambda: table, Subject(examined.facts, examined.values), shared)

    assert [facts.path.name for facts in asked] == ["0", "1", "0"]


def test_a_tables_rules_are_made_once_and_those_of_another_table_apart(tmp_path):
    """However many adapters are asked about."""
    first, second = (examine(make_adapter(tmp_path / str(n), n), digest=False) for n in range(2))
    made, shared = [], Shared()

    def rules(name):
        made.append(name)
        return (Rule(name, "info", "", "config", lambda _subject: [Hit(name)]) for _ in range(1))

    tables = {name: object() for name in ("one", "other")}
    for examined in (first, second, first):
        for name, table in tables.items():
            found = ask(table, partial(rules, name), Subject(examined.facts, examined.values), shared)
            assert [finding.rule for finding in found] == [name]

    assert made == ["one", "other"]


@pytest.mark.parametrize(
    "change",
    [
        {"files": ("model.py",)},
        {"base_known": True},
        {"base_name": "another/base"},
        {"licensing": Licensing(None, problem="unread")},
    ],
)
def test_surroundings_are_no_part_of_what_is_shared(tmp_path, change):
    examined = examine(make_adapter(tmp_path / "a"), digest=False)
    usual = {"files": (), "base_known": False, "base_name": None, "licensing": Licensing("mit")}
    shared = Shared()
    before = check_adapter(examined.facts, values=examined.values, shared=shared, **usual)
    after = check_adapter(examined.facts, values=examined.values, shared=shared, **{**usual, **change})

    assert after == check_adapter(examined.facts, values=examined.values, **{**usual, **change})
    assert after != before


def test_versions_that_differ_in_what_was_measured_share_facts_and_keep_their_values(tmp_path):
    alike = SharedFacts()
    clean, other = (
        alike.read(stored(make_adapter(tmp_path / "a", 1))),
        alike.read(stored(make_adapter(tmp_path / "b", 2))),
    )
    nan = alike.read(stored(make_adapter(tmp_path / "c", tensors=damaged(factors(3), "nan"))))

    assert clean[0] is other[0] is nan[0]
    assert clean[1].norms != other[1].norms
    assert list(nan[1].nonfinite) == [next(iter(factors(3)))]


def test_versions_that_differ_in_their_config_share_modules_alone(tmp_path):
    alike = SharedFacts()
    one, _ = alike.read(stored(make_adapter(tmp_path / "a")))
    other, _ = alike.read(stored(make_adapter(tmp_path / "b", target_modules=["up_proj", "q_proj"])))

    assert one.modules is other.modules
    assert (one.config.lora.target_modules, other.config.lora.target_modules) == (
        ("q_proj", "up_proj"),
        ("up_proj", "q_proj"),
    )


def test_documents_written_in_another_way_give_the_same(tmp_path):
    """Spaces, another order of keys, spectra: what cannot be cut out by its text is parsed."""
    folder = make_adapter(tmp_path / "a")
    kept = documents(examine(folder), spectra={"model.layers.0.mlp.up_proj": (2.0, 1.0)}, report=None)
    modules = json.loads(kept["modules"])
    spread = kept | {"modules": json.dumps([dict(sorted(one.items())) for one in modules], indent=1)}
    expected = read_stored(kept, Path())

    for told in (kept, spread):
        facts, values = SharedFacts().read(told)
        assert values == expected[1]
        assert [(one.name, one.a_shape, one.scaling) for one in facts.modules] == [
            (one.name, one.a_shape, one.scaling) for one in expected[0].modules
        ]


def test_a_name_that_looks_like_a_norm_is_no_norm(tmp_path):
    odd = 'x,"norm":7,"spectrum":null}'
    kept = stored(make_adapter(tmp_path / "a"))
    modules = json.loads(kept["modules"])
    modules[0]["name"] = odd
    told = kept | {"modules": json.dumps(modules, separators=(",", ":"))}
    facts, values = SharedFacts().read(told)

    assert facts.modules[0].name == odd
    assert values.norms == read_stored(told, Path())[1].norms


def test_the_table_of_check_in_rules_names_which_look_at_values():
    assert {rule.id for rule in RULES if rule.needs == "values"} == {
        "value-nonfinite",
        "value-zero",
        "norm-outlier",
        "norm-large",
        "value-unscanned",
    }
