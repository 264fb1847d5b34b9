"""What the store has acknowledged survives a power cut, on a real ext4 whose log is cut off mid-write.

The positive controls are builds without an fsync: they must lose something, or the harness proves nothing.
"""

import fcntl
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from registry.errors import CorruptError
from registry.folder import FolderStore
from tests.registry.places import needs
from tests.registry.power import pushing
from tests.registry.tracing import PROJECT

SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN, _IOR('X', 125, __u32)
LOSE_THE_LOG = struct.pack("I", 2)
CUTS = pytest.mark.parametrize("cuts", [3, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])


@pytest.fixture
def image():
    """A file with an ext4 in it, and where to mount it."""
    needs("cutting the power needs root", os.geteuid() == 0, promised=False)
    needs("mkfs.ext4 is not installed", shutil.which("mkfs.ext4", path="/sbin:/usr/sbin:/bin:/usr/bin") is not None)
    with tempfile.TemporaryDirectory(prefix="power-") as folder:
        yield Path(folder) / "disk.img", Path(folder) / "disk"


@contextmanager
def plugged_in(disk, place):
    mounted = subprocess.run(["mount", "-o", "loop", disk, place], capture_output=True, text=True, check=False)
    needs(f"loop mounts are not permitted here: {mounted.stderr.strip()}", mounted.returncode == 0, promised=False)
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


def make_disk(disk, place):
    with disk.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["/sbin/mkfs.ext4", "-q", "-F", disk], check=True)
    place.mkdir(exist_ok=True)


def push_until_the_cut(place, cut, sabotage):
    """The digests acknowledged before the power went: in every other cut right after the last of them, with nothing
    following that could carry it to the disk; in the others in the middle of the next.
    """
    acknowledgements = 1 + cut % 9
    count = acknowledgements if cut % 2 == 0 else 1_000_000
    command = [sys.executable, "-B", pushing.__file__, str(place), str(count), sabotage]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={"PYTHONPATH": str(PROJECT)}
    ) as pusher:
        said = [pusher.stdout.readline().strip() for _ in range(acknowledgements)]
        time.sleep(0.001 * (cut % 7))
        folder = os.open(place, os.O_RDONLY)
        fcntl.ioctl(folder, SHUTDOWN, LOSE_THE_LOG)
        os.close(folder)
        pusher.kill()
        said += pusher.stdout.read().split("\n")[:-1]
    return [digest for digest in said if digest]


def lost_after(image, cuts, sabotage=""):
    """How many acknowledged blobs are missing or wrong once the power is back, of how many."""
    disk, place = image
    lost = acknowledged = 0
    for cut in range(cuts):
        make_disk(disk, place)
        with plugged_in(disk, place):
            said = push_until_the_cut(place, cut, sabotage)
        with plugged_in(disk, place):
            store = FolderStore(place / "blobs", place / "staging")
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
def test_no_acknowledged_blob_is_lost(image, cuts):
    lost, acknowledged = lost_after(image, cuts)

    assert acknowledged >= cuts
    assert lost == 0


@pytest.mark.parametrize("sabotage", ["no file fsync", "no folder fsync"])
def test_the_harness_sees_a_missing_fsync(image, sabotage):
    lost, _ = lost_after(image, 3, sabotage)

    assert lost > 0
