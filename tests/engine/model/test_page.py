"""The code of docs/engine.md runs as it stands."""

import re
from pathlib import Path

import pytest
import torch

import engine.errors
from registry import Registry
from tests.engine.model.live import llama, lora_folder

PAGE = Path(__file__).parents[3] / "docs" / "engine.md"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with the adapters that the page names, and a registry that holds one of them."""
    monkeypatch.chdir(tmp_path)
    for seed, (name, rank) in enumerate({"sql": 4, "chat": 8, "sql-2": 2}.items()):
        lora_folder(tmp_path / "adapters" / name, llama(), seed=seed, r=rank)
    registry = Registry.open(home=tmp_path / "home")
    registry.push("adapters/sql", "team/sql", aliases=["prod"])
    yield {"registry": registry}
    registry.close()


def test_the_blocks_run_one_after_the_other(place, capsys):
    model, other = llama(), llama()
    inputs = {"input_ids": torch.arange(12).reshape(3, 4), "attention_mask": torch.ones(3, 4, dtype=torch.long)}
    names = {**place, "model": model, "other_model": other, "inputs": inputs}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)

    with torch.no_grad():
        for block in blocks:
            exec(compile(block, str(PAGE), "exec"), names)

    assert len(blocks) == 5
    assert capsys.readouterr().out == "100.0% of the change arrived\n"
    assert names["plain"] is other


def test_every_error_that_the_page_names_exists():
    table = PAGE.read_text("utf-8").partition("| error | when |")[2]
    named = re.findall(r"`(\w+Error)`", table)

    assert len(named) >= 9
    assert [name for name in named if not issubclass(getattr(engine.errors, name), engine.errors.EngineError)] == []
