"""Killed at any system call that changes a file: nothing promised is lost, nothing wrong is visible, nothing is stuck."""

import shutil

import pytest

from registry.files.checkout import difference
from registry.files.manifest import manifest_bytes
from registry.pulls.pulled import clear_stale_pulls, find_pulled
from registry.values.digests import digest_of
from tests.registry import store_and_pull
from tests.registry.tracing import calls, failed_at, killed_at, python

SCRIPT = store_and_pull.__file__
DIGESTS = {entry.sha256 for entry in store_and_pull.entries()}
VERSION = digest_of(manifest_bytes(store_and_pull.entries()))


def check(home, said):
    """What another process may see after the kill, then after the cleaning, then after a second try."""
    store = store_and_pull.store_at(home)
    for blob in store.list():
        store.verify(blob.digest)
    assert list(store.strays()) == []
    if "stored" in said:
        assert {blob.digest for blob in store.list()} >= DIGESTS
    found = find_pulled(home / "pulled", VERSION)
    assert found is not None or "pulled" not in said
    mine = home / "mine"
    assert not mine.exists() or difference(mine, store_and_pull.entries()) is None

    store.clear_stale()
    clear_stale_pulls(home / "pulled")

    left = [path.name for path in home.glob("**/*.tmp") if not path.name.startswith(".mine.")]
    assert left == []
    store_and_pull.main(home)
    assert find_pulled(home / "pulled", VERSION) is not None
    assert difference(mine, store_and_pull.entries()) is None


EVERY = pytest.mark.parametrize("step", [6, pytest.param(1, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])


@EVERY
def test_a_kill_at_any_mutating_call_leaves_at_most_temporary_files(tmp_path, step):
    """Each point in the long run, every sixth in the short one."""
    counted = calls(python(SCRIPT, tmp_path / "calm"), tmp_path / "log")
    assert counted["rename"] >= 6, counted
    assert counted["fsync"] >= 10, counted
    points = [(call, number) for call, times in sorted(counted.items()) for number in range(1, times + 1)]
    for call, number in points[::step]:
        home = tmp_path / "home"
        check(home, killed_at(python(SCRIPT, home), call, number))
        shutil.rmtree(home)


@EVERY
def test_a_failed_fsync_is_not_acknowledged(tmp_path, step):
    """Of a file or of a folder: the run ends there."""
    counted = calls(python(SCRIPT, tmp_path / "calm"), tmp_path / "log")
    for number in range(1, counted["fsync"] + 1)[::step]:
        home = tmp_path / f"home{number}"
        said = failed_at(python(SCRIPT, home), "fsync", "EIO", number, exit_code=1)
        assert "checked out" not in said
        check(home, said)
