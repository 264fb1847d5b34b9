"""What `adapters convert --for ENGINE` wrote is accepted by that engine's own code, which computes what PEFT does."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from engine.compat.engines.target import parse_target
from tests.e2e.test_fixes import FIXES, findings, fixed
from tests.engines import sglang_loader, vllm_loader
from tests.engines.oracle import judged
from tests.engines.releases import files_of, folder_of

pytestmark = pytest.mark.engines

LOADERS = {"vllm": vllm_loader.loader_of, "sglang": sglang_loader.loader_of}


def of(*engines):
    return [rule for rule, (text, _, _) in FIXES.items() if text and parse_target(text).engine.name in engines]


def mended(rule, tmp_path):
    """The rewritten folder, the folder as PEFT made it, and the target."""
    engine, _, _ = FIXES[rule]
    folder, made, _ = fixed(rule, FIXES[rule], tmp_path)
    assert rule not in {finding.rule for finding in findings(folder, engine)}
    return folder, made, parse_target(engine)


def run(module, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", f"tests.engines.{module}", *map(str, arguments)],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def _release(target):
    numbers = target.version.release
    return ".".join(map(str, (*numbers, 0, 0)[:3]))


@pytest.mark.parametrize("rule", of("vllm", "sglang"))
def test_vllm_and_sglang(rule, tmp_path, network):
    folder, _, target = mended(rule, tmp_path)

    with LOADERS[target.engine.name](_release(target)) as load:
        assert judged("plain", folder, load) == "loads"


@pytest.mark.parametrize("rule", of("diffusers"))
def test_diffusers(rule, tmp_path, network):
    folder, made, target = mended(rule, tmp_path)
    release, meant = _release(target), made if rule == "diffusers-prefix" else folder
    files_of("diffusers", release, ["*.py"])

    pair = f"plain={folder}={meant}"
    assert run("diffusers_runner", folder_of("diffusers", release), target.text("prefix"), pair) == {"plain": "loads"}


@pytest.mark.parametrize("rule", of("peft"))
def test_older_peft(rule, tmp_path, network):
    folder, _, target = mended(rule, tmp_path)
    (said,) = run("peft_reader", _release(target), folder)

    assert "error" not in said
