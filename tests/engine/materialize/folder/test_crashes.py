"""Killed at any system call that changes something: the destination is as it was or whole, and a resumed run ends it.

The short run takes every STEP-th point and every rename, the long one (`make test-faults`) each of them.
"""

import shutil

import pytest
import torch

from engine.materialize import materialize, merged
from engine.materialize.folder import durable, journal
from engine.materialize.tasks.execute import execute
from engine.materialize.verify import verify
from tests.e2e.crashes import Inline, killed_at, points
from tests.engine.materialize.small import contents, request

pytestmark = [pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"), pytest.mark.timeout(600)]
EVERY = pytest.mark.parametrize("step", [6, pytest.param(1, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
TENSORS = 10


def one_thread():
    """strace counts calls per thread; tasks must still be told of one by one."""
    durable.ThreadPoolExecutor = journal.ThreadPoolExecutor = Inline
    merged.threads = lambda tasks, *, jobs: map(execute, tasks)


def lines_of(place):
    """How many tensors the journal says are finished, a torn line aside."""
    file = place / ".out.partial" / "journal"
    return max(file.read_bytes().count(b"\n") - 1, 0) if file.exists() else 0


def check(whole, place, point):
    """Nothing but the staging folder beside what was there; what a kill left is gone after the next run."""
    names = {path.name for path in place.iterdir()}
    assert names <= {".out.partial", "out"}, point
    if "out" in names:
        assert contents(place / "out") == contents(whole / "out"), point
        verify(place / "out")
        return
    noted, made = lines_of(place), []
    materialize(request(whole), place / "out", resume=True, progress=lambda done, of, name: made.append(name))
    assert len(made) == TENSORS - noted, point
    assert contents(place / "out") == contents(whole / "out"), point
    assert [path.name for path in place.iterdir()] == ["out"], point


@EVERY
@pytest.mark.parametrize("resumed", [False, True])
def test_a_run_killed_anywhere(tmp_path, step, resumed):
    """A first run, and one that goes on from five finished tensors."""
    torch.set_num_threads(1)  # before the forks
    whole = tmp_path / "whole"
    materialize(request(whole), whole / "out")
    before = tmp_path / "before"
    before.mkdir()
    if resumed:
        interrupted(whole, before / "out")

    def work(place):
        def run(speaker):
            one_thread()
            materialize(request(whole), place / "out", resume=resumed)

        return run

    found = points(work(shutil.copytree(before, tmp_path / "traced")), tmp_path / "log")
    chosen = [point for at, point in enumerate(found) if at % step == step // 2 or point.call.startswith("rename")]
    for number, point in enumerate(chosen):
        place = shutil.copytree(before, tmp_path / f"place{number}")
        assert killed_at(work(place), point) is not None, point
        check(whole, place, point)
        shutil.rmtree(place)
    print(f"{len(found)} points, {len(chosen)} kills")

    changing = {"pwrite64", "ftruncate", "fallocate", "write", "fsync", "openat", "unlinkat", "rmdir"}
    assert {point.call for point in found} >= changing
    assert sum(point.call.startswith("rename") for point in found) == 1
    assert len(found) > 40


def interrupted(whole, to):
    def progress(done, _, __):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        materialize(request(whole), to, jobs=1, progress=progress)
