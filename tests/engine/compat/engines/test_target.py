"""`--for ENGINE@VERSION:limit=value` is read as written, and refused by name where it cannot be."""

import pytest

from engine.compat.engines.check import check_for
from engine.compat.engines.table import Span
from engine.compat.engines.target import ENGINES, parse_target
from engine.compat.engines.version import parse_version
from engine.compat.finding import worst_status
from engine.errors import OptionError
from tests.engine.compat.small_adapter import adapter


def test_engine_release_and_limit_are_read():
    target = parse_target("vllm@0.33.0:max_lora_rank=64")

    assert (target.engine.name, str(target.version), target.number("max_lora_rank")) == ("vllm", "0.33", 64)


def test_without_a_release_the_newest_is_meant_and_limits_have_the_engines_own_default():
    target = parse_target("vllm")

    assert (str(target), target.limits) == ("vllm 0.33", {"max_lora_rank": 16})


def test_several_limits_follow_with_colons_or_commas():
    first = parse_target("vllm:max_lora_rank=8:max_lora_rank=32")
    second = parse_target("vllm:max_lora_rank=8,max_lora_rank=32")

    assert first.limits == second.limits == {"max_lora_rank": 32}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tgi", "engine 'tgi': expected one of vllm, sglang, diffusers, peft, llamacpp, ollama, own"),
        ("", "engine ''"),
        ("vllm@", "vllm@: expected a release such as 0.33.0"),
        ("vllm@latest", "vllm@latest: expected a release"),
        ("vllm@1.2.3.4.5.6.7", "expected a release"),
        ("vllm@" + "9" * 5000, "expected a release"),
        ("vllm:max_loras=4", "vllm has no limit 'max_loras': expected one of max_lora_rank"),
        ("vllm:", "has no limit ''"),
        ("vllm:max_lora_rank", "max_lora_rank=: expected a positive number"),
        ("vllm:max_lora_rank=0", "expected a positive number"),
        ("vllm:max_lora_rank=-1", "expected a positive number"),
        ("vllm:max_lora_rank=1e3", "expected a positive number"),
        ("vllm:max_lora_rank=²", "expected a positive number"),
        ("vllm:max_lora_rank=" + "9" * 5000, "expected a positive number"),
    ],
)
def test_what_cannot_be_read_is_named(text, words):
    with pytest.raises(OptionError) as caught:
        parse_target(text)

    assert words in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("text", ["vllm@0.34.0", "vllm@0.34rc1", "vllm@0.12.0", "vllm@99"])
def test_a_release_outside_the_table_is_inconclusive_and_nothing_else(tmp_path, text):
    findings = check_for(adapter(tmp_path), parse_target(text))

    assert [(finding.rule, finding.severity) for finding in findings] == [("vllm-version", "inconclusive")]
    assert findings[0].fix == "adapters check REF --for vllm@0.33.0"
    assert worst_status(findings) == "inconclusive"


@pytest.mark.parametrize("text", ["vllm@0.13.0", "vllm@0.20.2", "vllm@0.33.0", "vllm@0.33.9.post2", "vllm@v0.33"])
def test_a_release_inside_the_table_is_never_inconclusive(tmp_path, text):
    assert worst_status(check_for(adapter(tmp_path), parse_target(text))) == "pass"


@pytest.mark.parametrize(
    "ordered",
    [
        (
            "0.9.2",
            "0.10.0",
            "0.10.1.1",
            "0.33.0.dev3",
            "0.33.0a1",
            "0.33.0rc1",
            "0.33.0",
            "0.33.0.post1",
            "0.33.1",
            "1.0",
        )
    ],
)
def test_releases_are_ordered_as_python_packages_are(ordered):
    versions = [parse_version(text) for text in ordered]

    assert versions == sorted(versions)
    assert len(set(versions)) == len(ordered)


@pytest.mark.parametrize(("text", "printed"), [("0.33.0", "0.33"), ("v1.2rc1", "1.2rc1"), ("0.5.12.post1", "0.5.12.post1"), ("0.21.dev0", "0.21.dev0"), ("0", "0"), ("1+cu128", "1")])  # fmt: skip
def test_a_release_prints_as_it_is_read(text, printed):
    assert str(parse_version(text)) == printed


@pytest.mark.parametrize(("text", "inside"), [("0.31.9", False), ("0.32rc1", True), ("0.32", True), ("0.33.5", True), ("0.34rc1", False), ("0.34", False)])  # fmt: skip
def test_a_span_is_half_open_and_a_candidate_counts_as_its_release(text, inside):
    assert Span("0.32", "0.34").holds(parse_version(text)) is inside


def test_names_and_rule_ids_are_unique_and_every_rule_names_its_source():
    names = [name for engine in ENGINES for name in (engine.name, *engine.aliases)]
    ids = [rule.id for engine in ENGINES for rule in engine.rules]

    assert len(set(names)) == len(names)
    assert len(set(ids)) == len(ids)
    assert all(rule.id.startswith(f"{engine.name}-") for engine in ENGINES for rule in engine.rules)
    assert all(rule.source.file and rule.source.symbol and rule.source.release for e in ENGINES for rule in e.rules)
