"""A scratch folder belongs to its process: nobody clears it while that lives, anybody may when it is dead."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from registry.errors import UnavailableError
from registry.files.scratch import clear_stale, scratch_beside, scratch_folder, stale_folders

PROJECT = Path(__file__).resolve().parents[3]
HOLDER = """
import sys, time
from pathlib import Path
from registry.files.scratch import scratch_folder
with scratch_folder(Path(sys.argv[1])) as folder:
    (folder / "half").write_bytes(b"half")
    print(folder, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process inside a scratch folder."""
    environment = {"PYTHONPATH": str(PROJECT)}
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        process.folder = Path(process.stdout.readline().strip())
        yield process
        process.kill()


def test_it_is_fresh_each_time_and_gone_afterwards(tmp_path):
    with scratch_folder(tmp_path) as one, scratch_folder(tmp_path) as other:
        assert one != other
        assert one.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_it_goes_with_what_is_in_it_even_read_only(tmp_path):
    with scratch_folder(tmp_path) as folder:
        (folder / "sub").mkdir()
        (folder / "sub/a").touch(mode=0o444)
        (folder / "sub").chmod(0o555)
    assert list(tmp_path.iterdir()) == []


def test_a_link_in_it_is_not_followed_when_it_goes(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/a").touch()
    with scratch_folder(tmp_path) as folder:
        (folder / "link").symlink_to(tmp_path / "mine")
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "a"]


def test_renamed_away_it_stays(tmp_path):
    with scratch_folder(tmp_path) as folder:
        folder.rename(tmp_path / "kept")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_living_process_keeps_its_folder(tmp_path, holder):
    assert stale_folders(tmp_path) == []
    assert clear_stale(tmp_path) == 0
    assert (holder.folder / "half").exists()


def test_a_stopped_process_keeps_its_folder(tmp_path, holder):
    holder.send_signal(signal.SIGSTOP)

    assert clear_stale(tmp_path) == 0


def test_a_killed_process_leaves_a_folder_that_is_found_and_cleared(tmp_path, holder):
    holder.kill()
    holder.wait()

    assert stale_folders(tmp_path) == [holder.folder]
    assert clear_stale(tmp_path) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_ones_own_process_counts_as_living(tmp_path):
    with scratch_folder(tmp_path) as folder:
        assert clear_stale(tmp_path) == 0
        assert folder.is_dir()


def test_what_is_no_scratch_folder_is_left_alone(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "file.tmp").touch()
    (tmp_path / "link.tmp").symlink_to(tmp_path / "kept")

    assert clear_stale(tmp_path) == 0
    assert len(list(tmp_path.iterdir())) == 3


def test_clearing_where_nothing_is_does_nothing(tmp_path):
    assert clear_stale(tmp_path / "absent") == 0


def test_a_collector_that_never_rests_takes_no_folder_from_its_maker(tmp_path):
    """Between mkdir and flock a folder has no lock: its maker must notice that it was taken."""
    done = threading.Event()

    def collect():
        while not done.is_set():
            clear_stale(tmp_path)

    collectors = [threading.Thread(target=collect) for _ in range(2)]
    for collector in collectors:
        collector.start()
    try:
        for _ in range(300):
            with scratch_folder(tmp_path) as folder:
                (folder / "a").touch()
                assert (folder / "a").exists()
    finally:
        done.set()
        for collector in collectors:
            collector.join()
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(UnavailableError, match="file"), scratch_folder(tmp_path / "file" / "staging"):
        os.abort()


BESIDE = HOLDER.replace("scratch_folder", "scratch_beside")


@pytest.fixture
def maker(tmp_path):
    """Another process on its way to the target `out`."""
    environment = {"PYTHONPATH": str(PROJECT)}
    with subprocess.Popen(
        [sys.executable, "-c", BESIDE, str(tmp_path / "out")], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        process.folder = Path(process.stdout.readline().strip())
        yield process
        process.kill()


def test_the_next_on_the_way_to_a_target_removes_what_a_killed_one_left(tmp_path, maker):
    maker.kill()
    maker.wait()

    with scratch_beside(tmp_path / "out") as folder:
        assert list(tmp_path.iterdir()) == [folder]


def test_two_on_the_way_to_one_target_leave_each_other_alone(tmp_path, maker):
    with scratch_beside(tmp_path / "out") as folder:
        assert sorted(tmp_path.iterdir()) == sorted([folder, maker.folder])


def test_what_was_left_on_the_way_to_another_target_stays(tmp_path, maker):
    """Whose it is and whether anybody wants it is not this command's to know."""
    maker.kill()
    maker.wait()

    with scratch_beside(tmp_path / "other"):
        assert maker.folder.is_dir()


@pytest.mark.parametrize("name", [".out.tmp", ".out.0123.tmp", f".out.{'g' * 32}.tmp", f".out.x.{'0' * 32}.tmp"])
def test_a_folder_with_a_name_like_a_leftovers_is_no_leftover(tmp_path, name):
    (tmp_path / name).mkdir()

    with scratch_beside(tmp_path / "out"):
        assert (tmp_path / name).is_dir()


def test_a_leftover_that_cannot_be_removed_stops_nobody(tmp_path, monkeypatch):
    (tmp_path / f".out.{'0' * 32}.tmp").mkdir()
    monkeypatch.setattr("registry.files.scratch.discard_tree", lambda folder: (folder / "absent").rmdir())

    with scratch_beside(tmp_path / "out") as folder:
        folder.rename(tmp_path / "out")

    assert (tmp_path / "out").is_dir()
