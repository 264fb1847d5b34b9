"""Runs a module of ours in a process of its own: an empty environment, bounded time, killed with its session."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_ANSWER = 65_536

_ROOT = Path(__file__).parents[2]
# -I: neither the environment nor the current folder decides what is imported, so the place of this package is told
_START = "import sys, importlib; sys.path.insert(0, sys.argv[1]); importlib.import_module(sys.argv[2]).main()"
_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/nonexistent",
    "LANG": "C.UTF-8",
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
}
"""All that the process knows of the world: no variable of the caller's, one thread, no caches."""


class Ended(Exception):  # noqa: N818 - says how a process ended that gave no answer
    """The process gave no answer: `reason` in words."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def run(
    module: str, request: Mapping[str, Any], *, files: Sequence[int], timeout: float, root: Path = _ROOT
) -> dict[str, Any]:
    """The JSON object that `module.main()` writes to stdout, given `request` on stdin and the descriptors `files`.

    Raises Ended where it is killed, runs longer than `timeout` seconds, or answers nothing that can be read.
    """
    command = [sys.executable, "-I", "-B", "-W", "ignore", "-c", _START, str(root), module]
    with tempfile.TemporaryFile() as asked, tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as errors:
        asked.write(json.dumps(request).encode())
        asked.seek(0)
        process = subprocess.Popen(
            command,
            stdin=asked,
            stdout=answer,
            stderr=errors,
            pass_fds=files,
            env=_ENVIRONMENT,
            cwd="/",
            start_new_session=True,
        )
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise Ended(f"did not end within {timeout:.0f} s") from None
        finally:
            _kill(process)
        return _answer(code, _head(answer.fileno()), _head(errors.fileno()))


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the process if it still runs, and whatever is in its session."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _head(descriptor: int) -> bytes:
    return os.pread(descriptor, MAX_ANSWER, 0)


def _answer(code: int, text: bytes, errors: bytes) -> dict[str, Any]:
    if code < 0:
        names = {signal.SIGXCPU: "used more processor time than its size allows", signal.SIGKILL: "was killed"}
        raise Ended(names.get(signal.Signals(-code), f"ended by signal {-code}"))
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if code or not isinstance(found, dict):
        last = errors.decode("utf-8", "replace").strip().splitlines()[-1:] or ["no answer"]
        raise Ended(f"ended with {code}: {last[0][:200]}")
    return found
