"""Many processes of one machine pull a version that none of them has: it is fetched once, and all get right bytes."""

import logging
import multiprocessing
import os
import re
import signal
import time
from collections import Counter

import pytest

from registry.pulls import turns
from registry.pulls.pulled import ensure_pulled
from registry.store.folder import FolderStore
from tests.registries import make_adapter, open_registry

MANY = pytest.mark.parametrize("processes", [40, pytest.param(200, marks=pytest.mark.slow)])
NAME = "team/sql"
FORK = multiprocessing.get_context("fork")

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def together(work, *, processes):
    """`work()` in each of the processes, which start at once; what they return."""
    results, gate = FORK.SimpleQueue(), FORK.Barrier(processes)

    def child():
        gate.wait()
        try:
            results.put(work())
        except BaseException as error:  # noqa: BLE001 (the parent must hear of it)
            results.put(f"{type(error).__name__}: {error}")

    children = [FORK.Process(target=child) for _ in range(processes)]
    for process in children:
        process.start()
    answers = [results.get() for _ in children]
    for process in children:
        process.join()
    return answers


def pushed(home, store_url, source):
    """Pushes in a process of its own, so that this one has no threads of a store client when it forks."""
    (digest,) = together(lambda: open_registry(home, store_url=store_url).push(source, NAME).digest, processes=1)
    assert digest.startswith("sha256:"), digest
    return digest


@pytest.fixture
def source(tmp_path):
    return make_adapter(tmp_path / "source")


@pytest.fixture
def gets(s3_url):
    """How often each object was asked for, by what the server itself wrote down."""
    seen, logger = [], logging.getLogger("werkzeug")

    class Recorder(logging.Handler):
        def emit(self, record):
            seen.append(record.getMessage())

    recorder, level = Recorder(), logger.level
    logger.addHandler(recorder)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    yield lambda: Counter(found[1] for line in seen if (found := re.search(r"GET (\S+/sha256/\S+)", line)))
    logger.removeHandler(recorder)
    logger.setLevel(level)
    logger.propagate = True


@MANY
def test_many_processes_fetch_one_new_version_from_s3_once(tmp_path, source, s3_url, gets, processes):
    home = tmp_path / "home"
    digest = pushed(home, s3_url, source)
    before = gets()

    answers = together(lambda: str(open_registry(home, store_url=s3_url).pull(NAME)), processes=processes)

    folder = home / "pulled" / digest.removeprefix("sha256:")
    assert Counter(answers) == {str(folder): processes}
    fetched = gets() - before
    assert len(fetched) == 2  # adapter_config.json and adapter_model.safetensors
    assert set(fetched.values()) == {1}, fetched
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        path.name: path.read_bytes() for path in source.iterdir()
    }


class Counted(FolderStore):
    """A folder of blobs that writes one byte to a file for each copy."""

    def copy_to(self, digest, destination, *, mode=0o444):
        with self.root.with_name("copies").open("ab") as log:
            log.write(b".")
        time.sleep(0.2)  # a slow store: all processes are there before the first is done
        return super().copy_to(digest, destination, mode=mode)


@pytest.fixture
def counted(tmp_path, source):
    """A pull from a store that counts, the count, and where the version lies."""
    home = tmp_path / "home"
    digest = pushed(home, None, source)
    registry = open_registry(home)
    files = registry.show(NAME).files
    registry.close()
    store = Counted(home / "blobs", home / "staging")
    copies = home / "copies"

    def pull(notice=print):
        return str(ensure_pulled(store, digest, files, home / "pulled", notice=notice))

    return pull, lambda: copies.stat().st_size if copies.exists() else 0, home / "pulled" / digest[len("sha256:") :]


@MANY
def test_many_processes_copy_one_new_version_from_the_folder_once(counted, processes):
    pull, copies, folder = counted

    assert Counter(together(pull, processes=processes)) == {str(folder): processes}
    assert copies() == 2
    assert sorted(path.name.partition(".")[2] for path in folder.parent.iterdir()) == ["", "lock", "manifest.json"]


def test_when_the_fetching_process_is_killed_one_other_fetches(counted):
    pull, copies, folder = counted
    first = FORK.Process(target=pull)
    first.start()
    while copies() == 0:
        time.sleep(0.005)
    os.kill(first.pid, signal.SIGKILL)

    assert Counter(together(pull, processes=20)) == {str(folder): 20}
    first.join()
    assert copies() <= 4  # two files, and two begun by the one that died


def test_a_stopped_process_is_passed_by_and_uses_the_others_copy_when_it_goes_on(counted, monkeypatch):
    monkeypatch.setattr(turns, "SILENCE_S", 0.5)
    pull, copies, folder = counted
    answers = FORK.SimpleQueue()
    stopped = FORK.Process(target=lambda: answers.put(pull()))
    stopped.start()
    while copies() == 0:
        time.sleep(0.005)
    os.kill(stopped.pid, signal.SIGSTOP)
    heard = []

    assert pull(heard.append) == str(folder)
    assert [text for text in heard if "silent" in text] != []
    inode = folder.stat().st_ino
    os.kill(stopped.pid, signal.SIGCONT)
    stopped.join()

    assert answers.get() == str(folder)
    assert folder.stat().st_ino == inode
    assert sorted(path.name.partition(".")[2] for path in folder.parent.iterdir()) == ["", "lock", "manifest.json"]
