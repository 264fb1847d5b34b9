"""One build of a recipe at a time on a host; a lock that cannot be had stops nobody."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from registry.artifacts import turn
from registry.artifacts.turn import building
from registry.progress import unheard

RECIPE = "sha256:" + "ab" * 32


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(turn, "_PAUSE_S", 0.001)
    monkeypatch.setattr(turn, "_TELL_AFTER_S", 0.0)


def attempt(folder, recipe, told, entered):
    with building(folder, recipe, notice=told.append):
        entered.set()


def test_the_second_waits_says_so_once_and_goes_on_when_the_first_is_done(tmp_path):
    told, entered = [], threading.Event()
    with ThreadPoolExecutor(1) as threads:
        with building(tmp_path, RECIPE, notice=unheard):
            waiting = threads.submit(attempt, tmp_path, RECIPE, told, entered)
            assert not entered.wait(0.1)
        waiting.result(timeout=10)

    assert entered.is_set()
    assert told == ["another process is making this artifact: waiting for it"]


@pytest.mark.parametrize("other", ["recipe", "home"])
def test_another_recipe_and_another_home_do_not_wait(tmp_path, other):
    told, entered = [], threading.Event()
    folder = tmp_path / "other" if other == "home" else tmp_path
    with building(tmp_path, RECIPE, notice=unheard):
        attempt(folder, "sha256:" + "cd" * 32 if other == "recipe" else RECIPE, told, entered)

    assert (entered.is_set(), told) == (True, [])


def test_a_build_that_failed_lets_the_next_one_in(tmp_path):
    def fail():
        with building(tmp_path, RECIPE, notice=unheard):
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        fail()
    entered = threading.Event()
    attempt(tmp_path, RECIPE, [], entered)
    assert entered.is_set()


def test_where_no_lock_file_can_be_made_it_is_built_all_the_same(tmp_path):
    (tmp_path / "file").write_text("no folder")
    link = tmp_path / f"{'ab' * 32}.lock"
    link.symlink_to(tmp_path / "nowhere")

    for folder in (tmp_path / "file", tmp_path):
        entered = threading.Event()
        attempt(folder, RECIPE, [], entered)
        assert entered.is_set()
    assert not (tmp_path / "nowhere").exists()


def test_where_the_file_system_has_no_locks_it_is_built_all_the_same(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", refuse)
    entered = threading.Event()

    attempt(tmp_path, RECIPE, [], entered)

    assert entered.is_set()
