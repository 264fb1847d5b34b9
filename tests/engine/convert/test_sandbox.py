"""A process that is locked in reaches nothing, whatever code runs in it; its limits hold; its end is told in words."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

import pytest

from engine.convert import sandbox
from engine.convert.process import Ended, run
from engine.errors import ConfinementError
from tests.engine.convert.escapes import ANSWER_NOTHING, ATTEMPTS

ROOT = Path(__file__).parents[3]
EPERM = "PermissionError 1"
REFUSED = [
    "socket", "unix socket", "read", "write", "run", "fork", "kill", "chmod", "rename", "link", "code", "descriptor",
    "trace",
]  # fmt: skip


def attempt(*names, confined=True, timeout=60, files=(), **request):
    asked = {"attempts": names, "confined": confined, **request}
    return run("tests.engine.convert.escapes", asked, files=files, timeout=timeout, root=ROOT)


@pytest.fixture(scope="module")
def tried(tmp_path_factory):
    """Every attempt that gives an answer, tried in one process."""
    folder = tmp_path_factory.mktemp("canary")
    descriptor = os.open(folder / "output", os.O_WRONLY | os.O_CREAT)
    names = [name for name in ATTEMPTS if name not in ANSWER_NOTHING]
    try:
        found = attempt(*names, canary=str(folder / "canary"), output=descriptor, files=(descriptor,))
    finally:
        os.close(descriptor)
    return folder, found


@pytest.mark.parametrize("name", REFUSED)
def test_the_world_is_out_of_reach(tried, name):
    assert tried[1][name] == EPERM


def test_no_thread_starts(tried):
    assert tried[1]["thread"].startswith("RuntimeError")


def test_no_limit_can_be_raised(tried):
    assert tried[1]["limits"] in {"ValueError None", EPERM}


def test_memory_ends_at_the_limit(tried):
    assert tried[1]["memory"] == "MemoryError None"


def test_a_file_ends_at_the_limit(tried):
    folder, found = tried

    assert found["output"] == "OSError 27"  # EFBIG
    assert (folder / "output").stat().st_size == 2**20


def test_nothing_was_left_in_the_folder(tried):
    assert [path.name for path in tried[0].iterdir()] == ["output"]


def test_the_environment_holds_nothing_of_ours(tried, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")

    found = attempt(confined=False)["environment"]

    assert "hunter2" not in found
    assert [word for word in ("SECRET", "TOKEN", "ADAPTERS", "HF_", "PYTHON") if word in found] == []
    assert "HOME=/nonexistent" in found


def test_the_same_attempts_succeed_without_the_lock(tmp_path):
    """The control: what stops them above is the filter, not the way they are tried."""
    names = ["unix socket", "read", "write", "chmod", "rename", "link", "descriptor", "thread", "code", "kill"]

    found = attempt(*names, confined=False, canary=str(tmp_path / "canary"))

    assert [found[name] for name in names] == ["done: None"] * len(names)


def test_an_endless_loop_ends_by_processor_time():
    with pytest.raises(Ended, match="more processor time"):
        attempt("loop", seconds=1, timeout=120)


def test_waiting_for_ever_ends_by_the_clock():
    start = time.monotonic()

    with pytest.raises(Ended, match="did not end within 2 s"):
        attempt("sleep", timeout=2)
    assert time.monotonic() - start < 60


@pytest.mark.parametrize("name", ["talk", "list", "nothing", "text"])
def test_an_answer_that_is_none_is_no_answer(name):
    with pytest.raises(Ended, match="no answer"):
        attempt(name)


def test_a_process_of_another_machine_opens_nothing(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")

    with pytest.raises(ConfinementError, match="riscv64"):
        sandbox.confine(memory=1, seconds=1, output=1)


def test_each_machine_has_its_own_numbers():
    """No number is listed twice, and both programs have the same length."""
    for column in (0, 1):
        numbers = [pair[column] for pair in (*sandbox._NUMBERS.values(), *sandbox._MAPPING.values())]
        assert len(numbers) == len(set(numbers))
    assert len(sandbox._program("x86_64")) == len(sandbox._program("aarch64"))


def test_a_module_that_fails_is_named():
    with pytest.raises(Ended, match=r"ended with 1: .*No module named 'tests\.engine\.convert\.none'"):
        run("tests.engine.convert.none", {}, files=(), timeout=60, root=ROOT)
