"""Kills a process at each system call that changes a file, one call at a time.

strace counts calls per name and per thread, so the traced program must do its work in one thread for the sweep to be
complete, and one name is injected at a time. `--seccomp-bpf` silently disables injection and is not used.
"""

import collections
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from tests.registry.places import needs

PROJECT = Path(__file__).resolve().parents[2]
MUTATING = [
    "mkdir",
    "mkdirat",
    "rename",
    "renameat",
    "renameat2",
    "link",
    "linkat",
    "symlink",
    "symlinkat",
    "unlink",
    "unlinkat",
    "rmdir",
    "write",
    "writev",
    "pwrite64",
    "pwritev",
    "ftruncate",
    "truncate",
    "fallocate",
    "copy_file_range",
    "sendfile",
    "fsync",
    "fdatasync",
    "chmod",
    "fchmod",
    "fchmodat",
    "flock",
]
_CALL = re.compile(r"^\d+ +(\w+)\(", re.MULTILINE)


def python(script, *arguments):
    """The command line of a script that sees this project and starts fast."""
    return [sys.executable, "-B", str(script), *map(str, arguments)]


def calls(command, log):
    """How often each mutating call is made in a run that nothing disturbs."""
    needs("strace is not installed", shutil.which("strace") is not None)
    run = _run(["strace", "-f", "-o", str(log), "-e", f"trace={','.join(MUTATING)}", *command])
    needs(f"tracing is not permitted here: {run.stderr[-200:]}", "ptrace" not in run.stderr.lower())
    assert run.returncode == 0, run.stderr
    return collections.Counter(_CALL.findall(log.read_text()))


def killed_at(command, call, number):
    """Runs until the number-th such call, which is not made; the standard output up to there. Asserts that it fired."""
    return _faulted(command, call, f"signal=SIGKILL:when={number}", -signal.SIGKILL)


def failed_at(command, call, error, number, *, exit_code):
    """Runs with that call failing once with an error such as EIO; the standard output."""
    return _faulted(command, call, f"error={error}:when={number}", exit_code)


def _faulted(command, call, fault, exit_code):
    # The injected call is not made: a signal alone would be delivered after it, so it fails with an error as well.
    spec = fault if fault.startswith("error") else f"error=EINTR:{fault}"
    run = _run(["strace", "-f", "-o", os.devnull, "-e", f"trace={call}", "-e", f"inject={call}:{spec}", *command])
    assert run.returncode == exit_code, f"the fault at {call} ({fault}) did not fire as meant: {run.stderr}"
    return run.stdout


def _run(command):
    environment = {"PYTHONPATH": str(PROJECT), "PATH": "/usr/bin:/bin", "PYTHONHASHSEED": "0"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=60)
