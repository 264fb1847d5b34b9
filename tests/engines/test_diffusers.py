"""diffusers' own loader and our table agree on every flavour, by default and with PEFT's prefix."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from engine.compat.engines.check import check_for, verdict
from engine.compat.engines.target import parse_target
from engine.format.adapter import read_adapter
from tests.engine.compat.engines.flavours import FLAVOURS
from tests.engines.releases import files_of, folder_of

pytestmark = pytest.mark.engines


@pytest.mark.parametrize("prefix", ["transformer", "base_model.model"])
@pytest.mark.parametrize("release", ["0.39.0", "0.42.1"])
def test_the_verdicts_are_the_engines(release, prefix, folders, network):
    files_of("diffusers", release, ["*.py"])
    pairs = [f"{name}={folders(name)}" for name in FLAVOURS]
    done = subprocess.run(
        [sys.executable, "-m", "tests.engines.diffusers_runner", str(folder_of("diffusers", release)), prefix, *pairs],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout.splitlines()[-1])

    target = parse_target(f"diffusers@{release}:prefix={prefix}")
    ours = {name: verdict(check_for(read_adapter(folders(name)), target), target) for name in FLAVOURS}

    # PEFT cannot say here what the last few compute: they must not pass
    assert {name: ours[name] for name in FLAVOURS if theirs[name] is None and ours[name] == "loads"} == {}
    assert {name: (ours[name], theirs[name]) for name in FLAVOURS if theirs[name] not in (None, ours[name])} == {}
