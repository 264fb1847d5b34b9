"""Ctrl-C and a reader that goes away, at many moments: 130 and 141, no traceback, and all of a change or none of it.

The command line runs in a forked child, so that nothing is imported after the fork and the moments fall into the work.
"""

import importlib
import os
import shutil
import signal
import sys
import time

import pytest

from registry.cli.failure import run
from tests.registries import make_adapter, open_registry

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
LONG = pytest.param(300, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])
ALL, NONE = {"team/sql@1", "team/two@1", "team/new@1"}, {"team/sql@1", "team/two@1"}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A registry with two adapters; ./one is the content of the one, ./new is not there yet."""
    for variable in ("ADAPTERS_FORMAT", "ADAPTERS_DATABASE_URL", "ADAPTERS_STORE_URL", "ADAPTERS_NAMESPACE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("ADAPTERS_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    registry = open_registry(tmp_path / "home")
    registry.push(make_adapter(tmp_path / "one", 1), "team/sql")
    registry.push(make_adapter(tmp_path / "two", 2), "team/two")
    registry.close()
    make_adapter(tmp_path / "new", 3)
    for module in ("alembic.command", "torch", "engine.merge", "registry.merges.merge", "registry.cli.shown.findings"):
        importlib.import_module(module)
    return tmp_path / "home"


VERBS = {
    "push": ["push", "./new", "team/new"],
    "merge": ["merge", "team/sql", "team/two", "--combination", "cat", "--into", "team/new"],
    "pull": ["pull", "team/sql", "--to", "./out"],
    "list": ["list", "--format", "json"],
}


def started(arguments):
    """A child that runs a command line; its id, and the ends of its standard output and error."""
    out, write_out = os.pipe()
    err, write_err = os.pipe()
    # An interrupt that comes before the child is ready waits, or it would end in this test's own code.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    child = os.fork()
    if child == 0:
        code = 130
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.dup2(write_out, 1)
            os.dup2(write_err, 2)
            for descriptor in (out, write_out, err, write_err):
                os.close(descriptor)
            _fresh_streams()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
            code = run(arguments)
        except KeyboardInterrupt:
            pass  # 130, as registry.cli.main has it outside `run`
        finally:
            os._exit(code)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    os.close(write_out)
    os.close(write_err)
    return child, out, err


def _fresh_streams():
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")


def ended(child, err):
    with os.fdopen(err) as stream:
        said = stream.read()
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), said


def duration(arguments):
    """Seconds that the command takes undisturbed."""
    start = time.perf_counter()
    child, out, err = started(arguments)
    with os.fdopen(out) as stream:
        stream.read()
    code, said = ended(child, err)
    assert code == 0, said
    return time.perf_counter() - start


def check(home, verb, *, done):
    """A complete change or none; what else is left, a temporary folder at most, is gone after gc."""
    registry = open_registry(home)
    refs = {info.ref for info in registry.list()}
    changed = verb in ("push", "merge")
    assert refs in ([ALL] if done and changed else [ALL, NONE] if changed else [NONE])
    assert {finding.severity for finding in registry.fsck().findings} <= {"info"}
    out = home.parent / "out"
    whole = ["adapter_config.json", "adapter_model.safetensors"]
    if verb == "pull":
        assert out.exists() or not done
        assert not out.exists() or sorted(path.name for path in out.iterdir()) == whole
    registry.gc(grace="0")
    assert registry.fsck().findings == ()
    assert list((home / "staging").iterdir()) == []
    registry.close()


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("moments", [4, LONG])
def test_ctrl_c_at_any_moment(home, tmp_path, verb, moments):
    """Evenly spread over the time that the command takes; one that comes too late finds it done."""
    shutil.copytree(home, tmp_path / "before")
    arguments = VERBS[verb]
    duration(arguments)
    restore(tmp_path)
    seconds, stopped = duration(arguments), 0
    for moment in range(moments):
        restore(tmp_path)
        child, out, err = started(arguments)
        time.sleep(seconds * moment / moments)
        os.kill(child, signal.SIGINT)
        with os.fdopen(out) as stream:
            stream.read()
        code, said = ended(child, err)
        assert code in (0, 130), said
        assert "Traceback" not in said
        # Before and after the command line's own code nobody says that it was interrupted.
        assert said in ("", "interrupted: stopped before the end\n"[: 1000 * code]), said
        stopped += code == 130
        check(home, verb, done=code == 0)
    print(f"{verb}: {stopped} of {moments} stopped")
    assert stopped > 0  # the signal did arrive while something ran; how often is up to the machine


def restore(folder):
    shutil.rmtree(folder / "home")
    shutil.rmtree(folder / "out", ignore_errors=True)
    shutil.copytree(folder / "before", folder / "home")


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("moments", [2, LONG])
def test_a_reader_that_goes_away_at_any_moment(home, tmp_path, verb, moments):
    """A change is made whole, since nobody asked to stop it; only the telling of it fails."""
    shutil.copytree(home, tmp_path / "before")
    arguments = VERBS[verb]
    seconds = duration(arguments)
    for moment in range(moments):
        restore(tmp_path)
        child, out, err = started(arguments)
        time.sleep(seconds * moment / (2 * moments))
        os.close(out)
        code, said = ended(child, err)
        assert (code, said) in ((141, ""), (0, "")), said
        if moment == 0:
            assert code == 141
        check(home, verb, done=True)
