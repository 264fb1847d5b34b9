"""A run that dies at any tensor leaves the destination as it was, and a resumed one makes again only what was not done."""

import fcntl
import json
import os
import signal

import pytest
import torch

from engine.errors import DestinationError, RefusedError
from engine.materialize import materialize, merged
from engine.materialize.folder.journal import begin, finished
from engine.materialize.folder.staging import claimed, staging
from tests.engine.materialize.small import contents, make_adapter, request

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
TENSORS = 10


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What an undisturbed run makes."""
    folder = tmp_path_factory.mktemp("whole")
    torch.set_num_threads(1)  # before the forks
    materialize(request(folder), folder / "out")
    return folder


def killed_after(whole, to, number, **options):
    """Runs in a child of its own, which is killed as soon as so many tensors are noted."""

    def progress(done, _, __):
        if done == number:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        try:
            materialize(request(whole), to, jobs=1, progress=progress, **options)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL


def made(whole, to, **options):
    """How many tensors a run makes, counted as it tells of them."""
    names = []
    materialize(request(whole), to, progress=lambda done, of, name: names.append(name), **options)
    return len(names)


@pytest.mark.parametrize("number", range(1, TENSORS + 1))
def test_killed_after_any_tensor_it_resumes_with_the_next(whole, tmp_path, number):
    killed_after(whole, tmp_path / "out", number)

    assert [path.name for path in tmp_path.iterdir()] == [".out.partial"]
    assert made(whole, tmp_path / "out", resume=True) == TENSORS - number
    assert contents(tmp_path / "out") == contents(whole / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_killed_twice_it_goes_on_where_the_second_run_stopped(whole, tmp_path):
    killed_after(whole, tmp_path / "out", 3)
    killed_after(whole, tmp_path / "out", 7, resume=True)

    assert made(whole, tmp_path / "out", resume=True) == TENSORS - 7
    assert contents(tmp_path / "out") == contents(whole / "out")


def test_without_resume_everything_is_made_again(whole, tmp_path):
    killed_after(whole, tmp_path / "out", 4)

    assert made(whole, tmp_path / "out") == TENSORS
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_resume_without_a_killed_run_makes_everything(whole, tmp_path):
    assert made(whole, tmp_path / "out", resume=True) == TENSORS


def test_another_plan_is_not_continued(whole, tmp_path):
    killed_after(whole, tmp_path / "out", 4)
    other = request(whole, dtype="float32")
    names = []

    materialize(other, tmp_path / "out", resume=True, progress=lambda done, of, name: names.append(name))

    assert len(names) == TENSORS


def test_a_run_with_a_base_that_changed_since_is_not_continued(tmp_path):
    wanted = request(tmp_path)
    killed_after(tmp_path, tmp_path / "out", 4)
    file = wanted.base / "model-00001-of-00002.safetensors"
    os.utime(file, ns=(0, 0))

    assert made(tmp_path, tmp_path / "out", resume=True) == TENSORS


@pytest.mark.parametrize("damage", ["torn", "flipped", "foreign"])
def test_a_line_that_is_not_whole_is_not_believed(whole, tmp_path, damage):
    killed_after(whole, tmp_path / "out", 5)
    journal = tmp_path / ".out.partial" / "journal"
    content = journal.read_bytes()
    if damage == "torn":
        journal.write_bytes(content[:-7])
    elif damage == "flipped":
        journal.write_bytes(content[:-20] + bytes([content[-20] ^ 1]) + content[-19:])
    else:
        journal.write_bytes(content + b"\0" * 4096)

    assert made(whole, tmp_path / "out", resume=True) == TENSORS - (5 if damage == "foreign" else 4)
    assert contents(tmp_path / "out") == contents(whole / "out")


def test_lines_are_appended_behind_a_torn_end(tmp_path):
    """Two kills, a torn line in between: what the second run noted is found."""
    wanted = request(tmp_path)
    killed_after(tmp_path, tmp_path / "out", 2)
    journal = tmp_path / ".out.partial" / "journal"
    journal.write_bytes(journal.read_bytes()[:-3])
    killed_after(tmp_path, tmp_path / "out", 4, resume=True)

    names = []
    materialize(wanted, tmp_path / "out", resume=True, progress=lambda done, of, name: names.append(name))

    assert len(names) == TENSORS - 4


@pytest.mark.parametrize("damage", ["flipped", "shorter", "gone"])
def test_bytes_that_a_power_cut_took_are_made_again(whole, tmp_path, damage):
    """The journal says they were written; they are not what it says."""
    killed_after(whole, tmp_path / "out", TENSORS)
    shard = min((tmp_path / ".out.partial" / "files").glob("model-*"))
    if damage == "flipped":
        content = shard.read_bytes()
        shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "shorter":
        os.truncate(shard, 100)
    else:
        shard.unlink()

    assert made(whole, tmp_path / "out", resume=True) >= 1
    assert contents(tmp_path / "out") == contents(whole / "out")


def test_two_at_once_do_not_write_one_destination(whole, tmp_path):
    place = staging(tmp_path / "out")

    with claimed(place), pytest.raises(DestinationError, match="another process is writing it"):
        materialize(request(whole), tmp_path / "out")

    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_dead_process_is_free(whole, tmp_path):
    killed_after(whole, tmp_path / "out", 1)

    with (tmp_path / ".out.partial" / "journal").open() as journal:
        fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert made(whole, tmp_path / "out", resume=True) == TENSORS - 1


def test_an_interrupt_leaves_what_is_finished(whole, tmp_path):
    def progress(done, _, __):
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        materialize(request(whole), tmp_path / "out", progress=progress, jobs=1)

    assert not (tmp_path / "out").exists()
    assert made(whole, tmp_path / "out", resume=True) == TENSORS - 6


def test_a_refusal_amid_the_run_leaves_nothing(tmp_path):
    """A result with an infinite number is no result, and running again would not mend it."""
    wanted = request(tmp_path)
    for file in wanted.sources[0].path.iterdir():
        file.unlink()
    wanted.sources[0].path.rmdir()
    make_adapter(wanted.sources[0].path, scale=1e39)

    with pytest.raises(RefusedError, match="infinite numbers"):
        materialize(wanted, tmp_path / "out")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base"]


def test_a_base_that_changes_while_it_is_read_gives_nothing(tmp_path, monkeypatch):
    wanted = request(tmp_path)
    file = wanted.base / "model-00002-of-00002.safetensors"
    names = []

    def progress(done, _, name):
        names.append(name)
        if done == 9:
            os.utime(file)

    with pytest.raises(Exception, match="changed while it was read") as caught:
        materialize(wanted, tmp_path / "out", progress=progress)

    assert caught.value.path == file
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base"]


def test_sums_come_back_from_the_journal_as_they_were(whole, tmp_path):
    first = materialize(request(whole), tmp_path / "first")
    killed_after(whole, tmp_path / "out", 8)

    assert materialize(request(whole), tmp_path / "out", resume=True).report == first.report


def test_a_destination_that_comes_to_be_meanwhile_is_left_alone(whole, tmp_path):
    """And the finished work is kept for another name of the caller's choice to be freed."""

    def progress(done, _, __):
        if done == TENSORS:
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "mine").write_text("x")

    with pytest.raises(DestinationError, match="exists"):
        materialize(request(whole), tmp_path / "out", progress=progress)

    assert contents(tmp_path / "out") == {"mine": b"x"}
    (tmp_path / "out" / "mine").unlink()
    assert made(whole, tmp_path / "out", resume=True) == 0
    assert contents(tmp_path / "out") == contents(whole / "out")


def test_everything_is_synced_before_it_has_its_name(whole, tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(merged, "publish", lambda place: synced.append("published"))
    monkeypatch.setattr("engine.materialize.folder.durable.sync", lambda path: synced.append(path.name))

    materialize(request(whole), tmp_path / "out")

    names = {path.name for path in (whole / "out").iterdir()}
    assert set(synced[: synced.index("published")]) >= {*names, "files"}


def test_a_journal_holds_the_key_and_a_line_for_each_tensor(whole, tmp_path):
    killed_after(whole, tmp_path / "out", 2)

    lines = (tmp_path / ".out.partial" / "journal").read_text().splitlines()

    assert len(lines) == 3
    assert set(json.loads(lines[0][17:])) == {"key"}
    assert set(json.loads(lines[1][17:])) >= {"name", "digests", "sums"}


def test_a_journal_of_another_key_says_nothing(tmp_path):
    begin(tmp_path / "journal", "sha256:one")

    assert finished(tmp_path / "journal", "sha256:two", [], jobs=1) is None
    assert finished(tmp_path / "journal", "sha256:one", [], jobs=1) == []
    assert finished(tmp_path / "none", "sha256:one", [], jobs=1) is None
