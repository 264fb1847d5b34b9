"""Older releases of PEFT read the configurations as our table says, and the table of keys is what their wheels hold."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from engine.compat.engines import peft_changes
from engine.compat.engines.check import check_for
from engine.compat.engines.target import parse_target
from engine.format.adapter import read_adapter
from tests.engine.compat.engines.flavours import FLAVOURS
from tests.engines.derive_peft_keys import changes, derive, page

pytestmark = pytest.mark.engines


@pytest.mark.parametrize("release", ["0.10.0", "0.12.0", "0.13.2", "0.14.0", "0.16.0", "0.18.1", "0.20.0", "0.21.2"])
def test_a_release_refuses_and_drops_what_the_table_says(release, folders, network):
    # LoftQ's settings ask for scipy, which is not there
    names = [name for name in FLAVOURS if name != "LoftQ"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.engines.peft_reader", release, *(str(folders(name)) for name in names)],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    target = parse_target(f"peft@{release}")

    for name, theirs in zip(names, json.loads(done.stdout.splitlines()[-1]), strict=True):
        ours = {}
        for finding in check_for(read_adapter(folders(name)), target):
            ours.setdefault(finding.rule, []).append(finding.where)
        assert ("error" in theirs) == ("peft-keys" in ours), (name, theirs, ours)
        assert set(ours.get("peft-keys-dropped", ())) <= set(theirs.get("dropped", ())), (name, theirs, ours)


def test_the_table_of_keys_is_derived_from_the_wheels(network):
    assert Path(peft_changes.__file__).read_text(encoding="utf-8") == page(changes(derive()))
