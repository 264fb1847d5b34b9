"""Every `adapters convert` that a finding names: run as it stands, it clears the finding and keeps the function."""

from __future__ import annotations

import json
import shlex
import shutil
import warnings

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from engine.compat.check import check_adapter
from engine.compat.engines.check import check_for
from engine.compat.engines.target import parse_target
from engine.convert.rewrite.table import BY_WRITING, REWRITES
from engine.format.adapter import read_adapter
from registry.cli.failure import run
from tests.engine.compat.engines.flavours import QKV, llama, plain

TOKENS = torch.tensor([[7, 9, 3, 4, 11, 20, 3, 2]])
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
KEPT = "diffusers:prefix=base_model.model"


def without(*keys):
    def edit(folder):
        document = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps({key: value for key, value in document.items() if key not in keys}))

    return edit


def renamed(old, new):
    def edit(folder):
        tensors = {name.replace(old, new): value for name, value in load_file(folder / WEIGHTS).items()}
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})

    return edit


def with_header(**settings):
    def edit(folder):
        held = json.dumps({f"base_model.model.{key}": value for key, value in settings.items()})
        metadata = {"format": "pt", "lora_adapter_metadata": held}
        save_file(load_file(folder / WEIGHTS), folder / WEIGHTS, metadata=metadata)

    return edit


NAMED = renamed("weight", "default.weight")
BARE = renamed("base_model.model.", "")
PATTERNS = {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"k_proj": 3}}
RSLORA = {"use_rslora": True}
PISSA = {"init_lora_weights": "pissa"}
DEFAULT = {"r": 8, "lora_alpha": 8}  # what PEFT takes where the config does not say

# rule -> (the engine, what PEFT is asked to make, what is done to its files)
FIXES = {
    "vllm-fields": ("vllm", DEFAULT, without("r")),
    "vllm-tensor-name": ("vllm", {}, NAMED),
    "vllm-initialisation": ("vllm", PISSA, None),
    "vllm-initialisation-ignored": ("vllm@0.31.0", PISSA, None),
    "vllm-patterns": ("vllm@0.31.0", PATTERNS, None),
    "sglang-fields": ("sglang", DEFAULT, without("lora_alpha")),
    "sglang-one-rank": ("sglang", PATTERNS, None),
    "sglang-scaling": ("sglang", RSLORA, None),
    "sglang-targets": ("sglang", {"target_modules": r".*\.[qkv]_proj"}, None),
    "sglang-initialisation": ("sglang", PISSA, None),
    "diffusers-prefix": ("diffusers", {}, None),
    "diffusers-scaling": (KEPT, PATTERNS, None),
    "diffusers-first-alpha": (KEPT.replace(":", "@0.39.0:"), PATTERNS, None),
    "diffusers-initialisation": (KEPT, PISSA, None),
    "diffusers-metadata": (KEPT, {}, with_header(r=4, lora_alpha=9)),
    "peft-keys": ("peft@0.13.2", {}, None),
    "peft-initialisation": ("peft@0.15.0", {"init_lora_weights": "orthogonal"}, None),
    "llamacpp-fields": ("llamacpp", DEFAULT, without("lora_alpha")),
    "llamacpp-tensors": ("llamacpp", {}, NAMED),
    "llamacpp-scaling": ("llamacpp", PATTERNS, None),
    "llamacpp-initialisation": ("llamacpp", PISSA, None),
    "ollama-tensors": ("ollama", {}, NAMED),
    "ollama-scaling": ("ollama", RSLORA, None),
    "ollama-alpha": ("ollama", {"lora_alpha": 2.5}, None),
    "ollama-initialisation": ("ollama", PISSA, None),
    "own-initialisation": ("own", PISSA, None),
    "tensor-prefix": (None, {}, BARE),
    "tensor-unmatched": (None, {"target_modules": [*QKV, "embed_tokens"]}, renamed("embedding_A", "embedding_A.default")),
    "pair-incomplete": (None, {"target_modules": [*QKV, "embed_tokens"]}, renamed("embedding_A", "embedding_A.default")),
    "pattern-targets": (None, {"target_modules": r".*\.[qkv]_proj"}, None),
    "scaling-rslora": (None, RSLORA, None),
    "init-changed-base": (None, PISSA, None),
}  # fmt: skip
# PiSSA before PEFT knew it: the same rule with the other command
PISSA_BEFORE_PEFT = ("peft@0.10.0", PISSA, None)


@pytest.fixture(scope="module")
def bare():
    with torch.no_grad():
        return llama().double().eval()(input_ids=TOKENS).logits


def made(folder, initial, settings):
    """The initial adapter, the trained one, and what the model computed at the end of its training."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(llama(), plain(**settings))
        model.save_pretrained(initial)
        torch.manual_seed(1)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
        model.save_pretrained(folder)
        with torch.no_grad():
            return model.double().eval()(input_ids=TOKENS).logits


def computed(folder):
    renamed("transformer.", "base_model.model.")(folder)  # what diffusers reads and PEFT does not
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(llama(), folder).double().eval()(input_ids=TOKENS).logits


def findings(folder, engine):
    facts = read_adapter(folder)
    return check_adapter(facts) if engine is None else check_for(facts, parse_target(engine))


def do(fix, folder, initial, to, home):
    """The command as the finding has it, its placeholders filled in; its exit code."""
    filled = {"REF": str(folder), "INITIAL": str(initial)}
    command, *arguments = [filled.get(word, word) for word in shlex.split(fix)]
    assert command == "adapters"
    return run([*arguments, "--to", str(to), "--home", str(home)])


def fixed(rule, case, tmp_path):
    """The adapter after the command, as PEFT made it, and what its model computed."""
    engine, settings, edit = case
    folder, initial = tmp_path / "adapter", tmp_path / "initial"
    expected = made(folder, initial, settings)
    shutil.copytree(folder, tmp_path / "made")
    if edit is not None:
        edit(folder)
    fixes = {finding.fix for finding in findings(folder, engine) if finding.rule == rule}
    assert len(fixes) == 1, fixes

    assert do(fixes.pop(), folder, initial, tmp_path / "fixed", tmp_path / "home") == 0
    return tmp_path / "fixed", tmp_path / "made", expected


def check_the_fix(rule, case, tmp_path, bare):
    folder, _, expected = fixed(rule, case, tmp_path)
    found = findings(folder, case[0])

    assert rule not in {finding.rule for finding in found}
    assert [finding for finding in found if finding.severity == "error"] == []
    assert (expected - bare).abs().max() > 1e-3
    assert (computed(folder) - expected).abs().max() < 1e-6


@pytest.mark.parametrize("rule", FIXES)
def test_the_fix_that_a_finding_names_clears_it_and_keeps_the_function(rule, tmp_path, bare):
    check_the_fix(rule, FIXES[rule], tmp_path, bare)


def test_an_initialisation_that_an_older_peft_lacks_is_folded_away(tmp_path, bare):
    check_the_fix("peft-initialisation", PISSA_BEFORE_PEFT, tmp_path, bare)


def test_every_rewrite_is_named_as_a_fix():
    cleared = {rule for row in REWRITES for rule in row.clears} | BY_WRITING

    assert cleared | {"pattern-targets", "scaling-rslora", "init-changed-base"} == FIXES.keys()
