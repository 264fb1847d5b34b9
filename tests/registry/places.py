"""Small file systems that tests may fill, freeze and cut the power of; Linux and root only."""

import os
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest


def needs(reason, available, *, promised=True):
    """Skips for ordinary users; where CI promises the facility, its absence is a failure."""
    if available:
        return
    if promised and os.environ.get("CI") == "true":  # noqa: TID251 (about the machine, not the product)
        pytest.fail(f"CI must have this: {reason}")
    pytest.skip(reason)


@contextmanager
def mounted(kind, *options, source=None):
    """A file system of its own, unmounted at the end."""
    needs("mounting a file system needs root", os.geteuid() == 0, promised=False)
    with tempfile.TemporaryDirectory(prefix="mounted-") as folder:
        made = subprocess.run(
            ["mount", "-t", kind, *options, str(source or kind), folder], capture_output=True, text=True, check=False
        )
        needs(f"mounting {kind} is not permitted here: {made.stderr.strip()}", made.returncode == 0, promised=False)
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "-l", folder], check=True)


def remount(place, options):
    subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True)
