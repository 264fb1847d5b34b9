"""The command line over a real registry: one story, then each exit code from a real fault."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from registry.cli.failure import run
from tests.registries import factors, make_adapter

PROGRAM = [sys.executable, "-m", "registry"]


class Shell:
    """Runs command lines in this process; `say` wants success, `fail` a given exit code."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        code = run(list(arguments))
        captured = self._capsys.readouterr()
        return code, captured.out, captured.err

    def say(self, *arguments: str) -> str:
        code, out, err = self(*arguments)
        assert code == 0, err
        return out

    def json(self, *arguments: str) -> Any:
        return json.loads(self.say(*arguments, "--format", "json"))

    def fail(self, *arguments: str, code: int) -> str:
        """The one line of the error; stdout stays empty."""
        found, out, err = self(*arguments)
        errors = [line for line in err.splitlines() if line.startswith("error: ")]
        assert (found, out, len(errors)) == (code, "", 1), err
        return errors[0]


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Shell:
    for variable in ("ADAPTERS_FORMAT", "ADAPTERS_DATABASE_URL", "ADAPTERS_STORE_URL", "ADAPTERS_NAMESPACE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("ADAPTERS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ADAPTERS_ACTOR", "ann")
    monkeypatch.chdir(tmp_path)
    make_adapter(tmp_path / "one", 1)
    make_adapter(tmp_path / "two", 2)
    return Shell(capsys)


def blobs(home: Path) -> list[Path]:
    return sorted(path for path in (home / "blobs").rglob("*") if path.is_file())


def test_a_story_from_push_to_undelete(shell: Shell, tmp_path: Path):
    """What a newcomer does in the first quarter of an hour, in json."""
    first = shell.json("push", "./one", "team/sql", "--alias", "prod", "--tag", "task=sql", "--metric", "acc=0.5")
    assert (first["ref"], first["version"], first["created"]) == ("team/sql@1", 1, True)

    second = shell.json("push", "./two", "team/sql", "--parent", "team/sql@1", "--message", "more data")
    assert (second["ref"], second["digest"] != first["digest"]) == ("team/sql@2", True)

    again = shell.json("push", "./one", "team/sql")
    assert (again["ref"], again["created"], again["digest"], again["newest"]) == (
        "team/sql@1",
        False,
        first["digest"],
        2,
    )

    listed = shell.json("list")
    assert [(row["ref"], row["rank"], row["peft_type"]) for row in listed] == [("team/sql@2", 2, "LORA")]
    tagged = shell.json("list", "--all-versions", "--tag", "task=sql", "--metric", "acc=0.4..0.6")
    assert [(row["ref"], row["aliases"]) for row in tagged] == [("team/sql@1", ["prod"])]

    shown = shell.json("show", "team/sql")
    assert [item["path"] for item in shown["files"]] == ["adapter_config.json", "adapter_model.safetensors"]
    assert shown["config"]["lora_alpha"] == 4
    assert {module["name"] for module in shown["modules"]} == {
        "model.layers.0.self_attn.q_proj",
        "model.layers.0.mlp.up_proj",
    }
    assert {"child": "team/sql@2", "parent": "team/sql@1", "relation": "finetuned_from", "weight": None} in shown[
        "lineage"
    ]["edges"]

    assert shell.json("alias", "set", "team/sql@2", "prod", "--expect", "team/sql@1")["version"] == 2
    assert shell.json("alias", "rollback", "team/sql", "prod")["version"] == 1
    assert [entry["action"] for entry in shell.json("log", "team/sql") if entry["kind"] == "version"] == [
        "push",
        "push",
    ]

    pulled = Path(shell.say("pull", "team/sql@2", "--format", "quiet").rstrip("\n"))
    found, expected = load_file(pulled / "adapter_model.safetensors"), factors(2)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)

    assert shell.json("which", "./two/adapter_model.safetensors")[0]["ref"] == "team/sql@2"
    assert shell.json("rm", "team/sql@2")["ref"] == "team/sql@2"
    assert [row["ref"] for row in shell.json("list")] == ["team/sql@1"]
    assert shell.json("undelete", "team/sql@2")["ref"] == "team/sql@2"
    assert shell.json("verify", "team/sql@2")["files"] == 2
    assert shell.json("fsck")["status"] == "pass"


def test_merging_on_the_command_line_adds_the_weighted_updates(shell: Shell, tmp_path: Path):
    """cat keeps 0.5·ΔW₁ + 0.5·ΔW₂ exactly; ΔW = (alpha/r)·B·A with alpha/r = 2, from the definition in fp64."""
    shell.say("push", "./one", "t/a")
    shell.say("push", "./two", "t/b")

    result = shell.json("merge", "t/a", "t/b", "--combination", "cat", "--into", "t/ab")
    shell.say("pull", "t/ab", "--to", "./out")

    assert (result["ref"], result["report"]["method"], result["report"]["rank"]) == ("t/ab@1", "cat", 4)
    merged, config = load_file("out/adapter_model.safetensors"), json.loads(Path("out/adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 4)
    for key in (name for name in merged if "lora_A" in name):
        other = key.replace("lora_A", "lora_B")
        wanted = sum(0.5 * 2.0 * np.float64(f[other]) @ np.float64(f[key]) for f in (factors(1), factors(2)))
        found = np.float64(merged[other]) @ np.float64(merged[key])
        assert np.max(np.abs(found - wanted)) < 1e-5 * np.max(np.abs(wanted))


def test_exit_1_a_rule_refuses_and_nothing_is_written(shell: Shell, tmp_path: Path):
    tensors = factors(1)
    tensors["base_model.model.model.layers.0.mlp.up_proj.lora_B.weight"][0, 0] = np.nan
    make_adapter(tmp_path / "nan", tensors=tensors)

    code, out, err = shell("push", "./nan", "t/nan", "--format", "json")

    document = json.loads(out)
    assert (code, document["status"]) == (1, "fail")
    assert [item["severity"] for item in document["findings"]].count("error") == 1
    assert err.count("error: ") == 1
    assert shell.json("list") == []
    assert blobs(tmp_path / "home") == []


def test_exit_1_check_finds_what_push_would_refuse(shell: Shell, tmp_path: Path):
    tensors = factors(1)
    del tensors["base_model.model.model.layers.0.mlp.up_proj.lora_B.weight"]
    make_adapter(tmp_path / "half", tensors=tensors)

    code, out, err = shell("check", "./half", "--format", "json")

    assert (code, json.loads(out)["targets"], err) == (1, {"./half": "fail"}, "")


def test_exit_2_input_that_cannot_be_read(shell: Shell, tmp_path: Path):
    """A missing folder, a truncated file, a config that is not JSON, a malformed name: each is named."""
    weights = tmp_path / "two" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    make_adapter(tmp_path / "text")
    (tmp_path / "text" / "adapter_config.json").write_text("not json")

    assert "nowhere" in shell.fail("push", "./nowhere", "t/x", code=2)
    assert "adapter_model.safetensors" in shell.fail("push", "./two", "t/x", code=2)
    assert "adapter_config.json" in shell.fail("push", "./text", "t/x", code=2)
    assert "bad name" in shell.fail("push", "./one", "bad name", code=2)
    assert "8..x" in shell.fail("list", "--rank", "8..x", code=2)
    assert "yesterday" in shell.fail("gc", "--grace", "yesterday", code=2)
    assert shell.json("list") == []


def test_exit_4_what_is_not_there(shell: Shell):
    shell.say("push", "./one", "team/sql")

    assert "team/nothing" in shell.fail("show", "team/nothing", code=4)
    assert "9" in shell.fail("pull", "team/sql@9", code=4)
    assert "prod" in shell.fail("alias", "rm", "team/sql", "prod", code=4)
    shell.fail("which", "./two/adapter_model.safetensors", code=4)
    shell.fail("base", "show", "gpt2", code=4)


def test_exit_5_something_else_is_there(shell: Shell, tmp_path: Path):
    shell.say("push", "./one", "team/sql", "--alias", "prod")
    shell.say("push", "./two", "team/sql")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("mine")

    assert "prod" in shell.fail("alias", "set", "team/sql@2", "prod", "--expect", "none", code=5)
    assert "prod" in shell.fail("rm", "team/sql@1", code=5)
    assert "taken" in shell.fail("pull", "team/sql", "--to", "./taken", code=5)
    assert (tmp_path / "taken" / "file").read_text() == "mine"
    assert shell.json("alias", "list", "team/sql")[0]["version"] == 1


def test_exit_6_stored_bytes_that_changed(shell: Shell, tmp_path: Path):
    digest = shell.json("push", "./one", "team/sql")["digest"]
    entry = next(item for item in shell.json("show", "team/sql")["files"] if item["path"].endswith(".safetensors"))
    blob = next(path for path in blobs(tmp_path / "home") if path.name in entry["sha256"])
    blob.chmod(0o644)
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)

    assert entry["sha256"] in shell.fail("pull", "team/sql", "--to", "./out", code=6)
    assert not (tmp_path / "out").exists()
    shell.fail("verify", "team/sql", code=6)
    code, out, _ = shell("fsck", "--format", "json")
    assert (code, [item["subject"] for item in json.loads(out)["findings"]]) == (6, [entry["sha256"]])
    assert shell.json("show", "team/sql")["digest"] == digest


def test_exit_7_a_database_that_is_none_of_ours(shell: Shell, tmp_path: Path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "catalog.db").write_bytes(b"this is no database, only text\n" * 100)

    assert "catalog.db" in shell.fail("list", code=7)
    assert "catalog.db" in shell.fail("push", "./one", "t/x", code=7)
    shell.fail("list", "--database-url", "postgresql://nobody@127.0.0.1:1/none", code=7)


def test_passwords_of_a_database_url_are_never_printed(shell: Shell):
    code, out, err = shell("list", "--database-url", "postgresql://u:s3cret@127.0.0.1:1/none", "--debug")

    assert code == 7
    assert "s3cret" not in out + err


def test_exit_70_an_installation_without_its_own_files(tmp_path: Path):
    """A part of the package is missing: one line, no traceback."""
    room = Path(__file__).parents[2]
    for name in ("registry", "engine"):
        shutil.copytree(room / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "registry" / "browse" / "listing.py").unlink()

    done = subprocess.run(
        [*PROGRAM, "list", "--home", "./home"], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout) == (70, "")
    assert "registry.browse.listing" in done.stderr
    assert "Traceback" not in done.stderr


def _environment(tmp_path: Path) -> dict[str, str]:
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "ADAPTERS_HOME": str(tmp_path / "home"),
        "LC_ALL": "C.UTF-8",
    }


def _open_files(pid: int) -> list[str]:
    """What a process has open at the moment; an entry may go while it is looked at."""
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found.append(str(link.readlink()))
    return found


def test_exit_130_ctrl_c_changes_nothing(shell: Shell, tmp_path: Path):
    """A push that waits for a locked database is interrupted: one line, no version, and the next push works."""
    import sqlite3

    shell.say("init")
    holder = sqlite3.connect(tmp_path / "home" / "catalog.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    command = [*PROGRAM, "push", "./one", "t/x"]
    process = subprocess.Popen(command, cwd=tmp_path, env=_environment(tmp_path), stdout=-1, stderr=-1, text=True)
    while not any(link.endswith("catalog.db") for link in _open_files(process.pid)):
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    holder.rollback()
    holder.close()
    out, err = process.communicate(timeout=60)

    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err
    assert shell.json("list") == []
    assert shell.json("push", "./one", "t/x")["version"] == 1


def test_exit_141_nobody_reads(shell: Shell, tmp_path: Path):
    """`adapters list | head`: no traceback, no message, also not at the interpreter's end."""
    shell.say("push", "./one", "t/x")
    for arguments in (["list"], ["--help"]):
        read, write = os.pipe()
        os.close(read)
        command = [*PROGRAM, *arguments]
        done = subprocess.run(
            command, env=_environment(tmp_path), cwd=tmp_path, stdout=write, stderr=subprocess.PIPE, check=False
        )
        os.close(write)

        assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_stdout_is_said_once(tmp_path: Path):
    with Path("/dev/full").open("w") as full:
        command = [*PROGRAM, "list", "--format", "json"]
        done = subprocess.run(
            command,
            env=_environment(tmp_path),
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    assert (done.returncode, done.stderr) == (7, "error: stdout: No space left on device\n")


def test_a_closed_stdout_is_no_crash(tmp_path: Path):
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m registry list >&-"],
        env=_environment(tmp_path),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, "Traceback" in done.stderr) == (0, False)


def test_tab_completes_verbs(tmp_path: Path):
    environment = _environment(tmp_path) | {
        "_ADAPTERS_COMPLETE": "bash_complete",
        "_ADAPTERS_LINE": "adapters li",
    }
    done = subprocess.run([*PROGRAM], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert [line.partition("\t")[0] for line in done.stdout.splitlines()] == ["words", "list", "lineage"]
