"""Disks whose power can be cut: files with a file system in them, mounted over a loop device; Linux and root only."""

import fcntl
import os
import shutil
import struct
import subprocess
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.registry.places import needs

# _IOR('X', 125, __u32), the same number and flag on ext4 and xfs: from now on every call fails, and the log is not
# written out first.
SHUTDOWN = 0x8004587D
LOSE_THE_LOG = struct.pack("I", 2)
MEBIBYTES = {"ext4": 64, "xfs": 300}  # the smallest that mkfs.xfs makes


@dataclass(frozen=True)
class Disk:
    """One file, and where it is mounted."""

    kind: str
    file: Path
    place: Path

    def make(self):
        """A new, empty file system."""
        self.file.unlink(missing_ok=True)
        with self.file.open("wb") as file:
            file.truncate(MEBIBYTES[self.kind] << 20)
        force = {"ext4": "-F", "xfs": "-f"}[self.kind]
        subprocess.run([f"/sbin/mkfs.{self.kind}", "-q", force, self.file], check=True)
        self.place.mkdir(exist_ok=True)

    def cut(self):
        """The power goes: what was not made durable is lost."""
        folder = os.open(self.place, os.O_RDONLY)
        fcntl.ioctl(folder, SHUTDOWN, LOSE_THE_LOG)
        os.close(folder)

    @contextmanager
    def plugged_in(self):
        """Mounted, which plays back what the log holds."""
        command = ["mount", "-t", self.kind, "-o", "loop", self.file, self.place]
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
        needs(f"loop mounts are not permitted here: {mounted.stderr.strip()}", mounted.returncode == 0, promised=False)
        try:
            yield
        finally:
            subprocess.run(["umount", self.place], check=True)


@contextmanager
def disks(kind, count=1):
    """So many disks of a kind, not made yet."""
    needs("cutting the power needs root", os.geteuid() == 0, promised=False)
    found = shutil.which(f"mkfs.{kind}", path="/sbin:/usr/sbin:/bin:/usr/bin")
    needs(f"mkfs.{kind} is not installed", found is not None, promised=kind == "ext4")
    with tempfile.TemporaryDirectory(prefix="power-") as folder:
        top = Path(folder)
        yield [Disk(kind, top / f"disk{n}.img", top / f"disk{n}") for n in range(count)]


@contextmanager
def all_plugged_in(several):
    """Each of them mounted."""
    with ExitStack() as stack:
        for disk in several:
            stack.enter_context(disk.plugged_in())
        yield
