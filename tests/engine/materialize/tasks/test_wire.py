"""A task is plain data: it travels as JSON, and a stranger's process in any order writes the same bytes."""

import json
import random
import subprocess
import sys

import pytest
import torch

from engine.materialize.changes.lowrank import LowRank
from engine.materialize.stored.place import plain
from engine.materialize.tasks.pool import threads
from engine.materialize.tasks.task import Task
from engine.materialize.tasks.wire import from_json, to_json
from tests.engine.materialize.arrays import room, saved

WORKER = """
import json, sys, torch
from engine.materialize.tasks.execute import execute
from engine.materialize.tasks.wire import from_json, to_json
torch.set_num_threads(1)
for line in sys.stdin:
    print(json.dumps(to_json(execute(from_json(json.loads(line))))))
"""


@pytest.fixture
def tasks(tmp_path):
    """Three tasks of every shape of work: changed, cast, copied."""
    random_of = torch.Generator().manual_seed(1)
    base = saved(tmp_path / "base.safetensors", {f"w{n}": torch.randn(300, 500, generator=random_of) for n in range(3)})
    factors = saved(tmp_path / "a.safetensors", {"A": torch.randn(4, 500), "B": torch.randn(300, 4)})

    def make(folder):
        folder.mkdir()
        change = LowRank(factors["A"], factors["B"], 0.25)
        return [
            Task("w0", plain(base["w0"]), room(folder / "w0", "BF16", (300, 500)), (change, change), 7, "m"),
            Task("w1", plain(base["w1"]), room(folder / "w1", "F16", (300, 500))),
            Task("w2", plain(base["w2"]), room(folder / "w2", "F32", (300, 500))),
        ]

    return make


def test_json_brings_back_the_same_task(tasks, tmp_path):
    for task in tasks(tmp_path / "here"):
        assert from_json(json.loads(json.dumps(to_json(task)))) == task


def test_other_processes_in_any_order_write_the_same_bytes_and_sums(tasks, tmp_path):
    here, there = tasks(tmp_path / "here"), tasks(tmp_path / "there")
    expected = {one.name: one for one in threads(here, jobs=1)}
    random.Random(0).shuffle(there)
    lines = "".join(json.dumps(to_json(task)) + "\n" for task in there)
    told = subprocess.run([sys.executable, "-c", WORKER], input=lines, capture_output=True, text=True, check=True)
    found = [from_json(json.loads(line)) for line in told.stdout.splitlines()]
    assert {one.name: one for one in found} == expected
    for name in ("w0", "w1", "w2"):
        assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()


def test_a_class_that_is_no_value_of_ours_is_refused():
    with pytest.raises(KeyError):
        from_json({"is": "Popen", "args": ["true"]})
