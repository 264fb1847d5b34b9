"""Kills a forked child at one system call: nothing is imported after the fork, so that a whole sweep stays short.

strace counts calls per name and per thread, so the work must stay in one thread (asserted) and one name is injected at a
time. The call at which the child dies is not made.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple

from engine.merge import workers as merging
from registry.files import checkout
from registry.findings import examine
from tests.registry.places import needs
from tests.registry.store_and_pull import OneThread
from tests.registry.tracing import MUTATING

# What a database server is told counts too, and a file that is made; an open that makes none changes nothing.
CALLS = [*MUTATING, "openat", "sendto"]
_LINE = re.compile(r"^(\d+) +(\w+)\((.*)$", re.MULTILINE)
_TRACED = re.compile(r"^TracerPid:\t[1-9]", re.MULTILINE)
_PATIENCE_S = 60


class Point(NamedTuple):
    """The number-th call of a name."""

    call: str
    number: int


class Inline(OneThread):
    """A pool that works where it is asked, so that strace has one thread to count."""

    def __init__(self, *size, **options):
        """Whatever a pool is made with; what its threads would begin with is left out."""

    def submit(self, function, *arguments):
        done = Future()
        done.set_result(function(*arguments))
        return done

    def shutdown(self, **options):
        """There is nothing to end."""


def points(work, log):
    """Every call of an undisturbed run that changes something, in order. `work` is called with a file to speak to."""
    said, status = _forked(work, log, ["-e", f"trace={','.join(CALLS)}"])
    assert status == 0, said
    seen = {}
    found = []
    threads = set()
    for thread, call, rest in _LINE.findall(log.read_text()):
        threads.add(thread)
        seen[call] = seen.get(call, 0) + 1
        if call != "openat" or "O_CREAT" in rest:
            found.append(Point(call, seen[call]))
    assert len(threads) == 1, f"{len(threads)} threads made calls: a count per thread would miss some"
    return found


def killed_at(work, point):
    """Runs until that call, which is not made; what the child said until then, None where it ended without the call.
    Asserts that it was killed or all went well.
    """
    spec = f"inject={point.call}:error=EINTR:signal=SIGKILL:when={point.number}"
    said, status = _forked(work, os.devnull, ["-e", f"trace={point.call}", "-e", spec])
    if status == 0:
        return None
    assert os.WIFSIGNALED(status), f"{point}: {said}"
    assert os.WTERMSIG(status) == signal.SIGKILL
    return said


def _forked(work, log, options):
    needs("strace is not installed", shutil.which("strace") is not None)
    start, go = os.pipe()
    hear, speak = os.pipe()
    child = os.fork()
    if child == 0:
        _be_the_child(work, start, speak)
    os.close(start)
    os.close(speak)
    tracer = subprocess.Popen(
        ["strace", "-f", "-o", os.fspath(log), *options, "-p", str(child)], stderr=subprocess.PIPE, text=True
    )
    try:
        _wait_until_traced(child, tracer)
        os.write(go, b".")
    finally:
        os.close(go)
        with os.fdopen(hear) as stream:
            said = stream.read()
        _, status = os.waitpid(child, 0)
        _, errors = tracer.communicate(timeout=_PATIENCE_S)
    assert tracer.returncode == 0 or status != 0, errors
    return said, status


def _be_the_child(work, start, speak):
    status = 1
    try:
        sys.dont_write_bytecode = True
        examine.ThreadPoolExecutor = checkout.ThreadPoolExecutor = merging.ThreadPoolExecutor = Inline
        if os.read(start, 1):
            with os.fdopen(speak, "w", buffering=1) as speaker:
                try:
                    work(speaker)
                    status = 0
                except BaseException:  # noqa: BLE001 (the parent must hear of it)
                    speaker.write(traceback.format_exc())
    finally:
        os._exit(status)


def _wait_until_traced(child, tracer):
    end = time.monotonic() + _PATIENCE_S
    while not _TRACED.search(_status(child)):
        stopped = tracer.poll()
        needs(f"tracing is not permitted here: {stopped and tracer.stderr.read()[-200:]}", stopped is None)
        assert time.monotonic() < end, "strace never came"
        time.sleep(0.001)


def _status(child):
    return Path(f"/proc/{child}/status").read_text()
