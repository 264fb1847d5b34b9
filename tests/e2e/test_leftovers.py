"""A command that is killed half-way and given again leaves nothing beside its target."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from registry.settings import environment_with

ROOT = Path(__file__).parents[2]
# The command line, killed at the moment at which its work is done but has no name yet.
KILLED = """
import os, signal, sys
import registry.files.checkout, registry.conversions.convert
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
registry.files.checkout.put = registry.conversions.convert.put = die
from registry.cli import main
main()
"""


def killed(work, *words):
    environment = environment_with({"PYTHONPATH": str(ROOT)})
    done = subprocess.run([sys.executable, "-c", KILLED, *words], cwd=work, env=environment, check=False)
    assert done.returncode == -signal.SIGKILL


def make_old(work):
    shutil.copytree(work / "one", work / "old")
    weights = work / "old/adapter_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()


@pytest.mark.parametrize("words", [("pull", "team/sql", "--to", "./out"), ("convert", "./old", "--to", "./out")])
def test_the_same_command_again_removes_it(shell, work, words):
    make_old(work)
    before = set(work.iterdir())
    killed(work, *words)
    (left,) = set(work.iterdir()) - before
    assert left.name.startswith(".out.")

    shell.say(*words)

    assert set(work.iterdir()) - before == {work / "out"}
