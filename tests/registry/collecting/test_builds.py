"""One build of a recipe at a time in a home, one writer of a folder anywhere; a lock that cannot be had stops nobody."""

import multiprocessing
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from registry.collecting import builds
from registry.collecting.builds import building, clear_turns, left_turns, writing
from registry.errors import UnavailableError
from registry.pulls.turns import alone
from registry.values.progress import unheard

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
RECIPE = "sha256:" + "ab" * 32


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(builds, "_PAUSE_S", 0.001)
    monkeypatch.setattr(builds, "_TELL_AFTER_S", 0.0)


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


def test_no_lock_is_left_where_a_turn_ended(tmp_path):
    with building(tmp_path / "artifacts", RECIPE, notice=unheard), writing(tmp_path / "out", notice=unheard):
        assert [path.suffix for path in (tmp_path / "artifacts").iterdir()] == [".lock"]
        assert [path.suffix for path in tmp_path.glob(".out.*")] == [".lock"]

    assert [path.name for path in tmp_path.rglob("*")] == ["artifacts"]


def test_who_waited_on_a_lock_that_was_taken_away_holds_the_one_that_is_there_now(tmp_path):
    """Three in a row: the file of the first is gone when the second has it, and the third must not get in beside."""
    inside, most, gate = [], [], threading.Barrier(3)

    def one(number):
        gate.wait()
        for _ in range(30):
            with building(tmp_path, RECIPE, notice=unheard):
                inside.append(number)
                most.append(len(inside))
                inside.remove(number)

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(one, range(3)))

    assert (len(most), max(most)) == (90, 1)
    assert list(tmp_path.iterdir()) == []


def test_a_lock_on_a_file_that_was_taken_away_is_no_lock(tmp_path, monkeypatch):
    """Who held it ended between our open and our lock: the next would lock another file and get in beside us."""
    path, honest, calls = tmp_path / f"{'ab' * 32}.lock", builds.lock_now, []

    def lock_now(lock, kind):
        if not calls:
            path.unlink()
        calls.append(kind)
        return honest(lock, kind)

    monkeypatch.setattr(builds, "lock_now", lock_now)

    with building(tmp_path, RECIPE, notice=unheard), alone(path, create=False) as free:
        assert (path.exists(), free, len(calls)) == (True, False, 2)


@pytest.mark.parametrize("name", ["out", "x" * 255, "日" * 85, "😀" * 63, "new\nline", "\udcff\udcfe"])
def test_two_that_write_one_folder_take_turns_whatever_its_name(tmp_path, name):
    told, entered, to = [], threading.Event(), tmp_path / name

    def second():
        with writing(to, notice=told.append):
            entered.set()

    with ThreadPoolExecutor(1) as threads:
        with writing(to, notice=unheard), writing(tmp_path / "another", notice=told.append):
            waiting = threads.submit(second)
            assert not entered.wait(0.05)
        waiting.result(timeout=10)

    assert told == [f"another process is writing {to}: waiting for it"]
    assert list(tmp_path.iterdir()) == []


def test_missing_parents_are_made_and_stay_only_where_something_came_into_them(tmp_path):
    for name in ("nothing", "something"):
        with writing(tmp_path / "new" / name / "out", notice=unheard):
            assert (tmp_path / "new" / name).is_dir()
            if name == "something":
                (tmp_path / "new" / name / "out").mkdir()

    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
        "new",
        "new/something",
        "new/something/out",
    ]


def test_a_parent_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("no folder")

    with pytest.raises(UnavailableError, match="file"), writing(tmp_path / "file" / "out", notice=unheard):
        pytest.fail("nothing can be written there")


def test_what_a_killed_process_left_is_cleared_and_what_a_live_one_holds_is_not(tmp_path):
    folder = tmp_path / "artifacts"

    def dies():
        with building(folder, RECIPE, notice=unheard):
            (folder / f".rebuilt.{'0' * 32}.tmp").mkdir()
            os.kill(os.getpid(), 9)

    process = multiprocessing.get_context("fork").Process(target=dies)
    process.start()
    process.join()
    assert (process.exitcode, len(list(folder.iterdir())), left_turns(folder)) == (-9, 2, 2)

    with building(folder, "sha256:" + "cd" * 32, notice=unheard):
        assert (left_turns(folder), clear_turns(folder), clear_turns(folder)) == (2, 2, 0)
        assert [path.name for path in folder.iterdir()] == [f"{'cd' * 32}.lock"]

    assert (left_turns(tmp_path / "none"), clear_turns(tmp_path / "none")) == (0, 0)
