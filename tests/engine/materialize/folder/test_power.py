"""The power goes: a result that was told of survives whole, one that was not is not there and can be resumed.

The positive control leaves out what makes it durable and must lose something, or the harness proves nothing.
"""

import pytest

from engine.errors import DestinationError
from engine.materialize import materialize
from engine.materialize.folder import durable, staging
from engine.materialize.stored.files import sync
from engine.materialize.verify import verify
from tests.engine.materialize.small import contents, request
from tests.registry.power.disks import disks

TENSORS = 10


@pytest.fixture(params=["ext4", "xfs"])
def disk(request):
    with disks(request.param) as (found,):
        found.make()
        yield found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    materialize(request(folder), folder / "out")
    return folder


def cut_after(whole, disk, number, *, journal=False):
    """Runs until so many tensors are noted, when the power goes; with `journal` the lines are on the disk by then."""
    home = disk.place / ".out.partial"

    def progress(done, _, __):
        if done == number:
            if journal:
                sync(home / "journal")
                sync(home)
                sync(disk.place)
            disk.cut()

    with pytest.raises(DestinationError, match="Input/output error"):
        materialize(request(whole), disk.place / "out", jobs=1, progress=progress)


def resumed(whole, disk):
    names = []
    materialize(request(whole), disk.place / "out", resume=True, progress=lambda done, of, name: names.append(name))
    assert contents(disk.place / "out") == contents(whole / "out")
    return len(names)


def test_a_result_that_was_told_of_is_whole_after_a_cut(whole, disk):
    with disk.plugged_in():
        materialize(request(whole), disk.place / "out")
        disk.cut()

    with disk.plugged_in():
        assert contents(disk.place / "out") == contents(whole / "out")
        verify(disk.place / "out")


@pytest.mark.parametrize("number", [1, 6, TENSORS])
def test_a_cut_amid_the_run_leaves_no_result_and_a_resumed_one_ends_it(whole, disk, number):
    with disk.plugged_in():
        cut_after(whole, disk, number)

    with disk.plugged_in():
        assert not (disk.place / "out").exists()
        assert 0 <= resumed(whole, disk) <= TENSORS


def test_lines_that_outlive_their_tensors_are_not_believed(whole, disk):
    """The journal is on the disk, no tensor is: each is made again."""
    with disk.plugged_in():
        cut_after(whole, disk, 7, journal=True)

    with disk.plugged_in():
        assert (disk.place / ".out.partial" / "journal").read_bytes().count(b"\n") == 8
        assert resumed(whole, disk) == TENSORS


def test_without_syncing_a_cut_loses_the_result(whole, disk, monkeypatch):
    """The control."""
    monkeypatch.setattr(durable, "sync", lambda path: None)
    monkeypatch.setattr(staging, "sync", lambda path: None)
    with disk.plugged_in():
        materialize(request(whole), disk.place / "out")
        disk.cut()

    with disk.plugged_in():
        out = disk.place / "out"
        assert not out.exists() or contents(out) != contents(whole / "out")
