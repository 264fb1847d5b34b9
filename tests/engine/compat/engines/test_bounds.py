"""Whatever an adapter's files say, each engine's table answers in bounded time and memory, or reading them is refused."""

import json
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from engine.compat.engines.check import check_for, verdict
from engine.compat.engines.target import ENGINES, parse_target
from engine.errors import EngineError
from engine.format.adapter import read_adapter

CORPUS = Path(__file__).parents[4].parent / "shared" / "corpus"
OLD = ("vllm@0.31.0", "peft@0.10.0", "diffusers@0.39.0", "sglang@0.5.11")
TARGETS = [parse_target(text) for text in (*(engine.name for engine in ENGINES), *OLD)]
SECONDS = 2.0  # of the processor; a sound adapter takes a hundredth of that
BYTES = 64 * 2**20

PLAIN = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}
NAMES = [f"model.layers.{n}.self_attn.{'a' * 40}.q_proj" for n in range(100)]
DEEP = "[" * 100_000 + "]" * 100_000
HOSTILE = {
    "an expression that backtracks": {"target_modules": r"(.*a)*(a|a)*([a-z.]+)+$"},
    "thousands of patterns": {"rank_pattern": {f"(a|aa)+{n}$": 2 for n in range(3000)}},
    "alphas that backtrack": {"alpha_pattern": {r"((a+)+)+b": 3, r"^(\w+\.?)+x": 5}},
    "a nested section": {"auto_mapping": json.loads("[" * 400 + "]" * 400)},
    "a long name": {"target_modules": ["q_proj", "x" * 1_000_000]},
    "many targets": {"target_modules": [f"m{n}" for n in range(50_000)]},
    "no number for r": {"r": "2"},
    "a number without end": {"r": 10**4000},
    "a scale without end": {"lora_alpha": 1e308, "use_rslora": True},
    "a negative rank": {"r": -1, "rank_pattern": {"q_proj": 0}},
    "types that are none": {"peft_type": ["LORA"], "target_modules": {"a": {}}, "modules_to_save": 5},
    "names of everything": {"modules_to_save": {"a": 1}, "layer_replication": [[0, 10**9]], "bias": []},
    "an initialisation that is an object": {"init_lora_weights": {"pissa": True}},
}


def write(folder, *, header=None, **config):
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({**PLAIN, **config}))
    tensors = {}
    for name in NAMES:
        tensors[f"base_model.model.{name}.lora_A.weight"] = np.ones((2, 4), np.float32)
        tensors[f"base_model.model.{name}.lora_B.weight"] = np.ones((4, 2), np.float32)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt", **(header or {})})
    return folder


def judge(folder):
    """How many targets answered; fails where one takes too long or too much."""
    try:
        facts = read_adapter(folder)
    except EngineError:
        return 0
    for target in TARGETS:
        tracemalloc.start()
        before = time.process_time()
        try:
            findings = check_for(facts, target)
            took, (_, peak) = time.process_time() - before, tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert verdict(findings, target) in ("loads", "refuses", "differs"), (folder, str(target))
        assert took < SECONDS, (folder, str(target))
        assert peak < BYTES, (folder, str(target))
        assert all(len(finding.message) <= 2000 for finding in findings), (folder, str(target))
    return len(TARGETS)


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_configurations(tmp_path, case):
    judge(write(tmp_path / "a", **HOSTILE[case]))


@pytest.mark.parametrize(
    "text", [DEEP, "{" * 10, "null", '{"base_model.model.r": ' + "9" * 5000 + "}", '{"transformer.r": []}']
)
def test_settings_in_a_header_that_are_none(tmp_path, text):
    assert judge(write(tmp_path / "a", header={"lora_adapter_metadata": text})) == len(TARGETS)


def test_strangers_adapters():
    if not CORPUS.is_dir():
        pytest.skip("no corpus of strangers' files beside this checkout")

    folders = sorted({path.parent for path in CORPUS.rglob("adapter_config.json")})
    answered = [judge(folder) for folder in folders]

    assert len([count for count in answered if count]) >= 13
