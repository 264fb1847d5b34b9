"""What the store has acknowledged survives a power cut, on a real file system whose log is cut off mid-write.

The positive controls are builds without an fsync: they must lose something, or the harness proves nothing.
"""

import subprocess
import sys
import time

import pytest

from registry.errors import CorruptError
from registry.store.folder import FolderStore
from tests.registry.power import pushing
from tests.registry.power.disks import disks
from tests.registry.tracing import PROJECT

CUTS = pytest.mark.parametrize("cuts", [3, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])


@pytest.fixture(params=["ext4", "xfs"])
def disk(request):
    """A disk of each kind, not made yet."""
    with disks(request.param) as (only,):
        yield only


def push_until_the_cut(disk, cut, sabotage):
    """The digests acknowledged before the power went: in every other cut right after the last of them, with nothing
    following that could carry it to the disk; in the others in the middle of the next.
    """
    acknowledgements = 1 + cut % 9
    count = acknowledgements if cut % 2 == 0 else 1_000_000
    command = [sys.executable, "-B", pushing.__file__, str(disk.place), str(count), sabotage]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={"PYTHONPATH": str(PROJECT)}
    ) as pusher:
        said = [pusher.stdout.readline().strip() for _ in range(acknowledgements)]
        time.sleep(0.001 * (cut % 7))
        disk.cut()
        pusher.kill()
        said += pusher.stdout.read().split("\n")[:-1]
    return [digest for digest in said if digest]


def lost_after(disk, cuts, sabotage=""):
    """How many acknowledged blobs are missing or wrong once the power is back, of how many."""
    lost = acknowledged = 0
    for cut in range(cuts):
        disk.make()
        with disk.plugged_in():
            said = push_until_the_cut(disk, cut, sabotage)
        with disk.plugged_in():
            store = FolderStore(disk.place / "blobs", disk.place / "staging")
            lost += sum(is_lost(store, digest) for digest in said)
            if not sabotage:
                check_the_rest(store)
        acknowledged += len(said)
    return lost, acknowledged


def is_lost(store, digest):
    if not store.root.is_dir():
        return True
    try:
        store.verify(digest)
    except CorruptError:
        return True
    return False


def check_the_rest(store):
    """Not acknowledged, but there: whole. Then the store works as before and cleans up."""
    for blob in store.list():
        store.verify(blob.digest)
    store.clear_stale()
    assert list(store.staging_root.iterdir()) == []
    assert store.exists(store.put_bytes(b"the power is back"))


@CUTS
def test_no_acknowledged_blob_is_lost(disk, cuts):
    lost, acknowledged = lost_after(disk, cuts)

    assert acknowledged >= cuts
    assert lost == 0


@pytest.mark.parametrize("sabotage", ["no file fsync", "no folder fsync"])
def test_the_harness_sees_a_missing_fsync(disk, sabotage):
    lost, _ = lost_after(disk, 3, sabotage)

    assert lost > 0
