"""docs/materialize.md runs as it stands: its commands as processes, then its code, in one folder."""

import re
import sys
from contextlib import closing
from pathlib import Path

import pytest
import torch
from transformers import LlamaForSequenceClassification

from registry import Registry
from tests.engine.model.live import llama, lora_folder
from tests.test_docs import matches, said, steps

PAGE = (Path(__file__).parents[3] / "docs" / "materialize.md").read_text("utf-8")
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The base and the adapters that the page names, and an empty home."""
    model = llama().to(torch.bfloat16)
    model.save_pretrained(tmp_path / "llama")
    for seed, name in enumerate(("sql", "chat")):
        lora_folder(tmp_path / "adapters" / name, llama(), seed=seed, target_modules=ALL)
    classifier = LlamaForSequenceClassification(model.config)
    lora_folder(tmp_path / "adapters" / "mood", classifier, task_type="SEQ_CLS", target_modules=["q_proj"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ADAPTERS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    return tmp_path


FIRST = 5
"""Steps that the suite takes, up to the first verification; each of the others begins with an import of torch."""


@pytest.mark.parametrize("most", [FIRST, pytest.param(None, marks=pytest.mark.slow)])
def test_the_commands_run(folder, most):
    plan = steps(PAGE)
    assert len(plan) >= 2 * FIRST
    for step in plan[:most]:
        code, output = said(step.command, folder)
        assert code == step.code, f"$ {step.command}\n{output}"
        assert matches(step.shown, output), f"$ {step.command}\n{output}"


def test_the_code_runs(folder):
    with closing(Registry.open()) as registry:
        registry.push("adapters/sql", "team/sql")
        registry.add_base("llama", names=["llama"])
    names = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(compile(block, "docs/materialize.md", "exec"), names)
    names["reg"].close()

    assert names["worst"]["name"].startswith("model.layers.")
    assert (folder / "from-python" / "model.safetensors").is_file()
    assert names["done"].path == folder / "half"
