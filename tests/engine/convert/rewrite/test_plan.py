"""Which rewrites clear which finding, in which order, and what is refused."""

from __future__ import annotations

import json
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from peft import LoraConfig
from safetensors.numpy import save_file

from engine.compat.engines.check import check_for
from engine.compat.engines.target import ENGINES, parse_target
from engine.compat.rules.table import RULES
from engine.convert.rewrite.apply import apply_rewrites
from engine.convert.rewrite.plan import plan_rewrites
from engine.convert.rewrite.table import REWRITES, describe_rewrites
from engine.errors import EngineError, OptionError, RefusedError
from engine.format.adapter import read_adapter
from engine.format.numbers.pairing import compare_modules
from tests.engine.compat.peft_adapters import save_adapter
from tests.engine.compat.small_adapter import CONFIG, tensors, write_adapter
from tests.engine.convert.rewrite.adapters import config_of
from tests.engine.tiny import llama

CORPUS = Path(__file__).parents[5] / "shared" / "corpus"
ALL_PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
REGEX = r".*\.(q|k|v|o|gate|up|down)_proj"
FLAVOURS = {
    "plain": {},
    "rslora": {"use_rslora": True, "lora_alpha": 9},
    "patterns": {"rank_pattern": {"q_proj": 2, "up_proj": 6}, "alpha_pattern": {"v_proj": 3}},
    "rslora and patterns": {"use_rslora": True, "rank_pattern": {"k_proj": 3}, "alpha_pattern": {"o_proj": 5.5}},
    "regex": {"target_modules": REGEX},
    "regex, rslora and patterns": {"target_modules": REGEX, "use_rslora": True, "rank_pattern": {"q_proj": 2}},
    "half an alpha": {"lora_alpha": 2.5},
}
# what has to change, by engine: every other pair needs nothing
STEPS = {
    ("rslora", "sglang"): ("scales",),
    ("rslora", "llamacpp"): ("scales",),
    ("rslora", "ollama"): ("scales",),
    ("patterns", "sglang"): ("scales",),
    ("patterns", "llamacpp"): ("scales",),
    ("patterns", "ollama"): ("scales",),
    ("patterns", "vllm@0.23"): ("scales",),
    ("rslora and patterns", "sglang"): ("scales",),
    ("rslora and patterns", "llamacpp"): ("scales",),
    ("rslora and patterns", "ollama"): ("scales",),
    ("rslora and patterns", "vllm@0.23"): ("scales",),
    ("regex", "sglang"): ("targets",),
    ("regex, rslora and patterns", "sglang"): ("scales", "targets"),
    ("regex, rslora and patterns", "llamacpp"): ("scales",),
    ("regex, rslora and patterns", "ollama"): ("scales",),
    ("regex, rslora and patterns", "vllm@0.23"): ("scales",),
    ("half an alpha", "ollama"): ("scales",),
    **{(flavour, "peft@0.10"): ("down-level",) for flavour in FLAVOURS},
}
TARGETS = ("vllm", "vllm@0.23", "sglang", "llamacpp", "ollama", "peft", "peft@0.10")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flavours")
    for name, options in FLAVOURS.items():
        config = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": ALL_PROJECTIONS, **options})
        save_adapter(llama, config, folder / name)
    return folder


@pytest.mark.parametrize("engine", TARGETS)
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_the_findings_are_cleared_by_these_rewrites(saved, tmp_path, flavour, engine):
    facts, target = read_adapter(saved / flavour), parse_target(engine)

    plan = plan_rewrites(facts, target)
    apply_rewrites(plan, tmp_path)

    assert plan.rewrites == STEPS.get((flavour, engine), ())
    found = check_for(read_adapter(tmp_path), target)
    assert [finding for finding in found if finding.severity == "error"] == []
    # and they were needed
    before = [finding.rule for finding in check_for(facts, target) if finding.severity == "error"]
    assert bool(before) == bool(plan.rewrites)


def test_ollama_gets_an_alpha_that_it_can_read(saved, tmp_path):
    apply_rewrites(plan_rewrites(read_adapter(saved / "half an alpha"), parse_target("ollama")), tmp_path)

    assert type(config_of(tmp_path)["lora_alpha"]) is int


def test_diffusers_gets_its_prefix_and_scale_1(tmp_path):
    """Its loader reads neither the configuration nor PEFT's prefix."""
    target = parse_target("diffusers")
    facts = read_adapter(write_adapter(tmp_path / "a", config={**CONFIG, "use_rslora": True}))

    plan = plan_rewrites(facts, target)

    assert plan.rewrites == ("scales", "prefix")
    assert {name.split(".")[0] for name in plan.draft.tensors} == {"transformer"}
    assert {module.scaling for module in plan.draft.facts().modules} == {1.0}


def test_every_rule_of_the_table_exists():
    known = {rule.id for rule in RULES} | {rule.id for engine in ENGINES for rule in engine.rules}

    assert {rule for row in REWRITES for rule in row.clears} - known == set()


def test_the_page_holds_the_table():
    page = (Path(__file__).parents[4] / "docs" / "rewrites.md").read_text(encoding="utf-8")

    assert describe_rewrites() in page


def test_no_finding_is_cleared_twice():
    rules = [rule for row in REWRITES for rule in row.clears]

    assert len(rules) == len(set(rules))


@pytest.mark.parametrize("engine", TARGETS)
def test_a_fix_that_names_convert_is_a_rewrite_of_the_table(saved, engine):
    cleared = {rule for row in REWRITES for rule in row.clears}

    for flavour in FLAVOURS:
        for finding in check_for(read_adapter(saved / flavour), parse_target(engine)):
            assert "adapters convert" not in (finding.fix or "") or finding.rule in cleared


REFUSED = {
    "DoRA": ({"use_dora": True}, "sglang", "sglang-dora"),
    "LoRA biases": ({"lora_bias": True}, "vllm", "vllm-lora-bias"),
    "biases": ({"bias": "all"}, "vllm", "vllm-bias"),
    "a full copy": ({"modules_to_save": ["embed_tokens"]}, "vllm", "vllm-saved"),
    "repeated layers": ({"layer_replication": [[0, 1], [0, 1]]}, "vllm", "vllm-replication"),
    "a rank above the server's": ({}, "vllm:max_lora_rank=1", "vllm-rank"),
    "LoftQ": ({"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4}}, "vllm", "rewrite-initial"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_rewritten_is_refused_by_name(tmp_path, case):
    config, engine, rule = REFUSED[case]
    facts = read_adapter(write_adapter(tmp_path / "a", config={**CONFIG, **config}))

    with pytest.raises(RefusedError) as caught:
        plan_rewrites(facts, parse_target(engine))

    assert rule in [finding.rule for finding in caught.value.findings]


def test_a_magnitude_is_refused_by_name_beside_a_scale_that_could_be_rewritten(tmp_path):
    config = {**CONFIG, "use_dora": True, "use_rslora": True}
    facts = read_adapter(write_adapter(tmp_path / "a", config=config))

    with pytest.raises(RefusedError) as caught:
        plan_rewrites(facts, parse_target("sglang"))

    rules = [finding.rule for finding in caught.value.findings]
    assert "sglang-dora" in rules
    assert "sglang-scaling" not in rules


def test_a_broken_adapter_is_refused_by_the_check_in_rule(tmp_path):
    weights = tensors()
    del weights["base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"]
    facts = read_adapter(write_adapter(tmp_path / "a", config=CONFIG, weights=weights))

    with pytest.raises(RefusedError, match=r"up_proj") as caught:
        plan_rewrites(facts, parse_target("vllm"))

    assert "pair-incomplete" in [finding.rule for finding in caught.value.findings]


def test_a_release_outside_the_table_is_no_target(tmp_path):
    facts = read_adapter(write_adapter(tmp_path / "a", config=CONFIG))

    with pytest.raises(OptionError, match=r"vllm 9: .*the table covers from"):
        plan_rewrites(facts, parse_target("vllm@9.0"))


def test_nothing_is_rewritten_for_an_engine_that_takes_it(tmp_path):
    folder = write_adapter(tmp_path / "a", config=CONFIG)

    plan = plan_rewrites(read_adapter(folder), parse_target("vllm"))
    (tmp_path / "b").mkdir()
    apply_rewrites(plan, tmp_path / "b")

    assert plan.rewrites == ()
    assert config_of(tmp_path / "b") == CONFIG
    one, other = (tmp_path / name / "adapter_model.safetensors" for name in "ab")
    assert one.read_bytes() == other.read_bytes()


def test_the_source_may_not_change_meanwhile(tmp_path):
    folder = write_adapter(tmp_path / "a", config=CONFIG)
    plan = plan_rewrites(read_adapter(folder), parse_target("vllm"), rank=4)
    with (folder / "adapter_model.safetensors").open("ab") as file:
        file.write(b"more")
    (tmp_path / "b").mkdir()

    with pytest.raises(EngineError, match="size changed"):
        apply_rewrites(plan, tmp_path / "b")

    assert not (tmp_path / "b" / "adapter_config.json").exists()


def test_one_absurd_rank_does_not_blow_up_the_others(tmp_path):
    """1,000,000 ranks of one number each beside a module of 4096 x 4096 would make 32 GB of zeros."""
    weights = {
        "base_model.model.a.q_proj.lora_A.weight": np.ones((10**6, 1), np.float32),
        "base_model.model.a.q_proj.lora_B.weight": np.ones((1, 10**6), np.float32),
        "base_model.model.a.k_proj.lora_A.weight": np.ones((1, 4096), np.float32),
        "base_model.model.a.k_proj.lora_B.weight": np.ones((4096, 1), np.float32),
    }
    config = {**CONFIG, "r": 1, "rank_pattern": {"q_proj": 10**6}, "target_modules": ["q_proj", "k_proj"]}
    facts = read_adapter(write_adapter(tmp_path / "a", config=config, weights=weights))

    with pytest.raises(RefusedError, match="bytes of weights") as caught:
        plan_rewrites(facts, parse_target("vllm@0.23:max_lora_rank=2000000"))

    assert [finding.rule for finding in caught.value.findings] == ["rewrite-size"]


@pytest.mark.parametrize(("expression", "named"), [("(a+)+" * 30 + "$", "pattern"), ("(", "not a regular expression")])
def test_a_hostile_expression_is_refused_in_bounded_time(tmp_path, expression, named):
    weights = {
        f"base_model.model.{'a' * 400}{n}.lora_{f}.weight": np.ones((2, 2), np.float32) for n in "xy" for f in "AB"
    }
    start = time.monotonic()

    with pytest.raises(EngineError, match=named):
        folder = write_adapter(tmp_path / "a", config={**CONFIG, "target_modules": expression}, weights=weights)
        plan_rewrites(read_adapter(folder), parse_target("sglang"))

    assert time.monotonic() - start < 5


def test_memory_does_not_follow_the_size_of_a_tensor(tmp_path):
    """A of 64 MB and B of 64 MB, scaled and padded, a few blocks at a time."""
    weights = {
        "base_model.model.q_proj.lora_A.weight": np.ones((8, 2**21), np.float32),
        "base_model.model.q_proj.lora_B.weight": np.ones((2**21, 8), np.float32),
    }
    (tmp_path / "a").mkdir()
    save_file(weights, tmp_path / "a" / "adapter_model.safetensors")
    del weights
    write_config(tmp_path / "a", {**CONFIG, "r": 8, "lora_alpha": 3, "target_modules": ["q_proj"]})
    plan = plan_rewrites(read_adapter(tmp_path / "a"), parse_target("vllm"), rank=16)
    (tmp_path / "b").mkdir()
    tracemalloc.start()
    try:
        apply_rewrites(plan, tmp_path / "b")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 24 * 2**20
    assert read_adapter(tmp_path / "b").modules[0].rank == 16


def write_config(folder, config):
    (folder / "adapter_config.json").write_text(json.dumps(config))


@pytest.mark.skipif(not CORPUS.is_dir(), reason="the corpus of strangers' adapters is not here")
def test_strangers_adapters_keep_every_delta(tmp_path):
    """Against the reader that `diff` uses, which knows nothing of rewriting: the deltas of both files, module by module."""
    compared = 0
    for place, folder in enumerate(sorted(path.parent for path in CORPUS.rglob("adapter_model.safetensors"))):
        for engine in ("ollama", "sglang", "vllm:max_lora_rank=512"):
            out = tmp_path / f"{place}-{engine.partition(':')[0]}"
            try:
                facts = read_adapter(folder)
                plan = plan_rewrites(facts, parse_target(engine), rank=2 * (facts.rank or 1))
                out.mkdir()
                apply_rewrites(plan, out)
            except EngineError:
                continue
            for module in compare_modules(facts, read_adapter(out)):
                assert module.contrast is not None, module
                assert module.contrast.distance <= 1e-2 * module.contrast.norms[0]
                compared += 1

    assert compared > 10


@pytest.mark.skipif(not CORPUS.is_dir(), reason="the corpus of strangers' adapters is not here")
def test_strangers_adapters_are_rewritten_or_refused_never_a_traceback():
    folders = sorted({path.parent for path in CORPUS.rglob("adapter_config.json")})
    assert len(folders) > 20
    slowest, done, refused = 0.0, 0, 0
    for folder in folders:
        for engine in ("vllm", "sglang", "ollama", "diffusers", "peft@0.10"):
            start = time.monotonic()
            try:
                plan_rewrites(read_adapter(folder), parse_target(engine), rank=64)
                done += 1
            except EngineError:
                refused += 1
            slowest = max(slowest, time.monotonic() - start)

    assert done
    assert refused
    assert slowest < 10
