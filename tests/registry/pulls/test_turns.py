"""Lock files of entries: who waits, for how long, and what a dead, stopped or vanished holder changes."""

import fcntl
import multiprocessing
import os
import signal
import time
from contextlib import contextmanager

import pytest

from registry.pulls import turns
from registry.pulls.turns import alone, in_use, turn

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
FORK = multiprocessing.get_context("fork")


@pytest.fixture
def lock(tmp_path):
    return tmp_path / "x.lock"


def never():
    return False


@contextmanager
def holding(lock):
    """A process that holds the lock until it is killed, at the end of the block at the latest."""
    held = FORK.Event()

    def hold():
        with turn(lock, ready=never, notice=print):
            held.set()
            time.sleep(600)

    process = FORK.Process(target=hold)
    process.start()
    try:
        assert held.wait(60)
        yield process
    finally:
        process.kill()
        process.join()


def heard_in(lock, seconds):
    """What is told to one who waits this long in vain for the lock."""
    heard, end = [], time.monotonic() + seconds
    with turn(lock, ready=lambda: time.monotonic() > end, notice=heard.append):
        pass
    return heard


def is_free(lock):
    with alone(lock) as free:
        return free


def test_a_turn_is_taken_by_one_process_at_a_time(lock):
    with holding(lock):
        assert not is_free(lock)
    assert is_free(lock)


def test_a_killed_holder_is_followed_at_once(lock):
    with holding(lock):
        pass
    heard = []

    with turn(lock, ready=never, notice=heard.append):
        assert not is_free(lock)
    assert heard == []


def test_users_share_and_keep_prune_away(lock):
    with in_use(lock), in_use(lock):
        assert not is_free(lock)
    assert is_free(lock)


def test_a_wait_ends_when_what_is_waited_for_is_there(lock):
    answers = iter([False, False, True])

    with holding(lock), turn(lock, ready=lambda: next(answers), notice=print):
        assert not is_free(lock)  # it is still the holder's


def test_a_long_wait_is_told_once(lock, monkeypatch):
    monkeypatch.setattr(turns, "TELL_AFTER_S", 0.02)

    with holding(lock):
        assert heard_in(lock, 0.3) == ["another process is fetching this version: waiting for it"]


class TestAStoppedHolder:
    @pytest.fixture
    def stopped(self, lock, monkeypatch):
        monkeypatch.setattr(turns, "SILENCE_S", 0.3)
        with holding(lock) as holder:
            os.kill(holder.pid, signal.SIGSTOP)
            yield holder

    def test_its_turn_is_taken_over_after_the_silence(self, stopped, lock):
        heard = []

        with turn(lock, ready=never, notice=heard.append):
            assert not is_free(lock)
        assert [text for text in heard if "silent" in text] != []

    def test_its_own_lock_is_no_longer_the_one_at_the_name(self, stopped, lock):
        before = lock.stat().st_ino

        with turn(lock, ready=never, notice=print):
            assert lock.stat().st_ino != before

    def test_a_lock_file_that_cannot_be_replaced_is_done_without(self, stopped, lock, monkeypatch):
        """Another user's, in a sticky folder."""

        def refused(path):
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(turns, "discard", refused)

        with turn(lock, ready=never, notice=print):
            assert not is_free(lock)


def test_a_slow_holder_that_shows_life_is_waited_for(lock, monkeypatch):
    monkeypatch.setattr(turns, "SILENCE_S", 0.5)
    monkeypatch.setattr(turns, "BEAT_S", 0.05)

    with holding(lock):
        assert [text for text in heard_in(lock, 2) if "silent" in text] == []


def test_a_lock_whose_file_was_removed_is_not_taken_for_the_new_one(lock):
    """Whoever waited at a file that prune removed goes on at the one that is there."""
    with in_use(lock):  # keeps the first file open and locked
        lock.unlink()
        with turn(lock, ready=never, notice=print):
            assert not is_free(lock)


def test_use_is_noted_by_the_lock_files_time(lock):
    lock.touch()
    os.utime(lock, (1000, 1000))

    with in_use(lock):
        pass

    assert time.time() - lock.stat().st_mtime < 60


def test_every_user_may_open_a_lock_file_whatever_the_umask(lock):
    old = os.umask(0o077)
    try:
        with in_use(lock):
            pass
    finally:
        os.umask(old)

    assert lock.stat().st_mode & 0o777 == 0o666


@pytest.mark.parametrize("kind", ["pipe", "link", "folder"])
def test_what_is_no_file_is_not_followed_nor_waited_for(lock, tmp_path, kind):
    if kind == "pipe":
        os.mkfifo(lock)
    elif kind == "link":
        lock.symlink_to(tmp_path / "elsewhere")
    else:
        lock.mkdir()

    with in_use(lock), turn(lock, ready=never, notice=print):
        pass

    assert not (tmp_path / "elsewhere").exists()
    assert not is_free(lock)


def test_looking_without_creating_leaves_no_file(lock):
    with alone(lock, create=False) as free:
        assert free
    assert not lock.exists()


def test_a_lock_is_freed_with_its_process_only(lock):
    """flock belongs to the open file: another descriptor of the same process is another holder."""
    with lock.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        assert not is_free(lock)
    assert is_free(lock)
