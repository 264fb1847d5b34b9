"""Checking a hostile adapter imports, opens, runs and connects to nothing that its config names."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine.compat.small_adapter import CONFIG, write_adapter

HOSTILE = {
    **CONFIG,
    "auto_mapping": {"base_model_class": "Evil", "parent_library": "antigravity"},
    "megatron_core": "this",
    "megatron_config": {"a": 1},
    "auto_map": {"AutoModel": "evil--module.Evil"},
    "trust_remote_code": True,
    "_attn_implementation_internal": "evil/kernel",
    "custom_pipelines": {"x": {"impl": "evil.Pipeline"}},
    "corda_config": {"cache_file": "/etc/hostname", "covariance_file": "/etc/passwd"},
    "lora_ga_config": {"cache_file": "/etc/shadow"},
    "base_model_name_or_path": "https://evil.example/model",
    "tokenizer_name_or_path": "/etc/passwd",
    "tokenizer_kwargs": {"trust_remote_code": True},
    "runtime_config": {"__reduce__": ["os.system", "touch /tmp/owned"]},
    "revision": "../../etc",
    "target_modules": r"(.*\.)?(q_proj|up_proj)",
    "rank_pattern": {"__import__('os')": 3},
    "init_lora_weights": "pissa",
}

# Runs in a process of its own: an audit hook cannot be taken off again.
WATCH = """
import sys, json
from pathlib import Path
folder = Path(sys.argv[1])
import numpy, regex
from engine.compat.check import check_adapter
from engine.compat.engines.check import check_for
from engine.compat.engines.target import ENGINES, parse_target
from engine.compat.together.check import check_together
from engine.compat.together.methods import METHODS
from engine.format.adapter import read_adapter
from engine.format.numbers.values import scan_values
scan_values(read_adapter(Path(sys.argv[2])))  # every lazy import happens here, on a sound adapter
check_adapter(read_adapter(Path(sys.argv[2])), files=("a.py",))
targets = [parse_target(engine.name) for engine in ENGINES]
[check_for(read_adapter(Path(sys.argv[2])), target) for target in targets]
questions = ["hotswap", "batch", "merge", *(f"merge:{method}" for method in METHODS)]
sound = read_adapter(Path(sys.argv[2]))
[check_together([sound, sound], question) for question in questions]
events = []
watched = ("import", "open", "exec", "compile", "os.", "subprocess.", "socket.", "ctypes.", "pickle.", "urllib.", "shutil.")
sys.addaudithook(lambda name, args: events.append([name, repr(args)[:200]]) if name.startswith(watched) else None)
facts = read_adapter(folder)
findings = check_adapter(facts, values=scan_values(facts), base_known=False, files=[p.name for p in folder.iterdir()])
judged = {target.engine.name: len(check_for(facts, target)) for target in targets}
met = {question: check_together([facts, sound, facts], question).status for question in questions}
seen = list(events)
unwanted = sorted({"torch", "socket", "ssl", "sqlalchemy", "transformers", "peft", "http.client"} & set(sys.modules))
print(json.dumps({"events": seen, "rules": sorted({f.rule for f in findings if f.severity == "error"}), "judged": judged, "met": met, "unwanted": unwanted}))
"""


@pytest.fixture
def report(tmp_path):
    folder = write_adapter(tmp_path / "hostile", config=HOSTILE)
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    sound = write_adapter(tmp_path / "sound", config={**CONFIG, "target_modules": r"(.*\.)?(q_proj|up_proj)"})
    done = subprocess.run(
        [sys.executable, "-c", WATCH, str(folder), str(sound)],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


def test_only_the_two_files_of_the_adapter_are_opened(report):
    folder, seen = report
    opened = {args for name, args in seen["events"] if name == "open"}

    assert len(opened) >= 2
    assert all(f"'{folder}/adapter_config.json'" in args or f"'{folder}/adapter_model.safetensors'" in args or args[1].isdigit() for args in opened)  # fmt: skip


def test_nothing_is_imported_run_or_connected(report):
    _, seen = report
    # compiling a stored expression compiles no Python code; listing the folder is the test's own call
    quiet = {"open", "os.listdir", "os.scandir"}

    assert [event for event in seen["events"] if event[0] not in quiet] == []


def test_every_engine_says_something_of_it(report):
    silent = {name for name, findings in report[1]["judged"].items() if not findings}

    assert len(report[1]["judged"]) == 7
    assert silent == {"peft"}  # it would load it, hostile keys and all: those are the check-in rules' business


def test_and_each_key_is_named(report):
    assert report[1]["rules"] == [
        "unsafe-auto-map",
        "unsafe-megatron-config",
        "unsafe-megatron-core",
        "unsafe-remote-code",
    ]


def test_adapters_that_meet_are_judged_the_same_way(report):
    """The events were watched while every question was asked of the hostile adapter and a sound one."""
    _, seen = report

    assert {"hotswap", "batch", "merge", "merge:ties"} <= seen["met"].keys()
    assert set(seen["met"].values()) == {"fail"}


def test_neither_torch_nor_a_network_is_loaded(report):
    assert report[1]["unwanted"] == []
