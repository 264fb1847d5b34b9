"""Checks as a pipeline runs them: whole processes, the Action's script, the pre-commit hook."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import yaml

from registry.precommit import check_line
from registry.settings import environment_with
from tests.registries import make_adapter, make_base

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / "tools" / "check-action.sh"
CORPUS = ROOT.parent / "shared" / "corpus"
ADAPTERS = Path(sys.executable).parent / "adapters"
PROBE = """
import sys
from registry.cli.failure import run
code = run(sys.argv[1:])
UNWANTED = "sqlalchemy torch alembic huggingface_hub obstore regex logging statistics tomllib"
loaded = sorted(set(UNWANTED.split()) & set(sys.modules))
print(f"loaded {loaded}")
raise SystemExit(code)
"""


def environment(tmp_path: Path, **more: str) -> dict[str, str]:
    given = environment_with({})
    plain = {key: value for key, value in given.items() if not key.startswith(("ADAPTERS_", "GITHUB_", "INPUT_"))}
    return {**plain, "ADAPTERS_HOME": str(tmp_path / "home"), "ADAPTERS": str(ADAPTERS), **more}


def action(tmp_path: Path, **inputs: str) -> subprocess.CompletedProcess[str]:
    given = {f"INPUT_{key.upper()}": value for key, value in inputs.items()}
    summary = {"GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md")}
    return subprocess.run(
        ["bash", str(SCRIPT)],
        cwd=tmp_path,
        env=environment(tmp_path, **summary, **given),
        capture_output=True,
        text=True,
        check=False,
    )


def test_folders_against_a_bases_path_load_no_database(tmp_path):
    folder, base = make_adapter(tmp_path / "a"), make_base(tmp_path / "base")
    engines = [f"--for={name}" for name in ("vllm", "sglang", "diffusers", "peft")]
    line = ["check", str(folder), "--base", str(base), *engines, "--format", "quiet"]
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *line], env=environment(tmp_path), capture_output=True, text=True, check=False
    )

    assert done.stdout.splitlines()[-1] == "loaded []"
    assert not (tmp_path / "home").exists()


def test_without_a_registry_a_folder_alone_makes_none(tmp_path):
    line = ["check", str(make_adapter(tmp_path / "a")), "--format", "quiet"]
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *line], env=environment(tmp_path), capture_output=True, text=True, check=False
    )

    assert done.stdout.splitlines() == ["base-unknown", "loaded []"]
    assert not (tmp_path / "home").exists()


def test_the_action_passes_on_the_examples(tmp_path):
    folders = sorted(str(path.parent) for path in (ROOT / "examples" / "adapters").rglob("adapter_config.json"))
    report = f"github\njunit={tmp_path / 'check.xml'}\n"
    done = action(tmp_path, adapters="\n".join(folders), **{"for": "vllm\npeft"}, report=report)

    assert done.returncode == 0, done.stdout + done.stderr
    assert len(folders) == 2
    assert (tmp_path / "summary.md").read_text().startswith("## adapters check: ")
    suites = ET.parse(tmp_path / "check.xml").getroot().findall("testsuite")
    assert len(suites) == len(folders) * 3


def test_the_projects_own_test_command_runs_the_script_on_the_examples():
    done = subprocess.run(
        ["make", "--dry-run", "--assume-old=.venv/.ready", "test"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    (line,) = [line for line in done.stdout.replace("\\\n", "").splitlines() if "tools/check-action.sh" in line]

    assert "examples/adapters/*" in line
    assert "ADAPTERS=.venv/bin/adapters" in line


def test_the_action_fails_with_annotations_and_takes_names_as_names(tmp_path):
    name = "a $(touch owned) 'b\"; touch owned"
    folder = make_adapter(tmp_path / name, use_dora=True)
    done = action(tmp_path, adapters=f"  ./{folder.name}  \n\n", **{"for": "vllm"})

    assert done.returncode == 1, done.stderr
    assert "\n::error file=a $(touch owned) 'b\"; touch owned/adapter_config.json,title=vllm-dora::" in done.stdout
    assert not (tmp_path / "owned").exists()


def test_an_option_in_the_list_of_adapters_is_no_option(tmp_path):
    done = action(tmp_path, adapters="--report=text=owned")

    assert done.returncode in (2, 4)
    assert not (tmp_path / "owned").exists()


def test_every_input_of_the_action_reaches_its_script():
    document = yaml.safe_load((ROOT / "action.yml").read_text())
    step = document["runs"]["steps"][1]
    script = set(re.findall(r"INPUT_[A-Z_]+", SCRIPT.read_text()))

    assert {f"INPUT_{name.upper().replace('-', '_')}" for name in document["inputs"]} == set(step["env"]) == script
    assert all("${{" not in one["run"] for one in document["runs"]["steps"])


@pytest.mark.parametrize("said", ["True", "yes", "1"])
def test_the_action_does_not_pass_over_a_wish_to_be_locked(tmp_path, said):
    done = action(tmp_path, adapters="team/sql", locked=said)

    assert done.returncode == 2
    assert f"locked: expected true or false, found {said}" in done.stderr


def test_pre_commit_checks_each_folder_once():
    files = [
        "out/a/adapter_config.json",
        "out/a/adapter_model.safetensors",
        "b/adapter_config.json",
        "adapter_config.json",
    ]

    assert check_line(["--for=vllm", *files]) == ["check", "--for=vllm", "--", "./out/a", "./b", "./."]


def test_a_folder_that_is_called_as_an_option_is_checked():
    """Else a commit could write a report over a file, and no rule would see the adapter."""
    file = "--report=text=out/adapter_config.json"

    assert check_line(["--for", "vllm", file]) == ["check", "--for", "vllm", "--", "./--report=text=out"]


def test_the_pre_commit_hook_runs(tmp_path):
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    make_adapter(tmp_path / "out", use_dora=True)
    command = [sys.executable, *hook["entry"].split()[1:], "--for=vllm", "out/adapter_config.json"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment(tmp_path, PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert re.search(hook["files"], "out/adapter_config.json")
    assert "vllm-dora" in done.stdout


def test_a_lock_that_does_not_hold_is_exit_5_and_a_baseline_makes_0(bare):
    def adapters(*line: str) -> int:
        code, _, err = bare(*line)
        assert "Traceback" not in err
        return code

    make_adapter(Path("a"), use_dora=True)
    make_adapter(Path("b"), 1)
    assert adapters("push", "./a", "team/a") == 0
    assert adapters("lock", "team/a") == 0
    assert adapters("check", "--locked", "--for", "vllm") == 1
    assert adapters("check", "team/a", "--for", "vllm", "--baseline", "b.toml", "--write-baseline") == 0
    assert adapters("check", "--locked", "--for", "vllm", "--baseline", "b.toml") == 0
    assert adapters("push", "./b", "team/a") == 0
    assert adapters("check", "--locked") == 5
    assert adapters("check", "--all", "--for", "vllm") == 1
    assert adapters("check", "team/none") == 4
    assert adapters("check", "./none") == 2
    assert adapters("check", "./b", "--for", "vllm@0.1") == 3


@pytest.mark.skipif(not CORPUS.is_dir(), reason="the corpus is not here")
def test_every_strangers_adapter_gives_findings_and_a_report_never_a_traceback(tmp_path, monkeypatch, capsys):
    from registry.cli.failure import run

    monkeypatch.setenv("ADAPTERS_HOME", str(tmp_path / "home"))
    folders = sorted({path.parent for path in CORPUS.rglob("*") if path.is_file()})
    engines = ["--for=vllm", "--for=sglang", "--for=diffusers", "--for=peft"]
    codes = set()
    for folder in folders:
        code = run(["check", str(folder), *engines, "--report", f"sarif={tmp_path / 's'}", "--report", "junit"])
        printed = capsys.readouterr()
        codes.add(code)
        assert code in (0, 1, 2, 3), (folder, printed.err)
        if code != 2:
            ET.fromstring(printed.out)

    assert codes >= {1, 2}
