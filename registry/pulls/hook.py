"""The command that watch runs for an event: no shell, the event in its environment, its output on stderr."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from registry.errors import UsageError
from registry.settings import environment_with

if TYPE_CHECKING:
    from collections.abc import Sequence

    from registry.pulls.watch import WatchEvent

_PATIENCE_S = 10.0  # how long an interrupted command may take to end, and how long one may run in any case


def parse_command(text: str) -> tuple[str, ...]:
    """Words as a shell would split them; nothing in them is expanded. UsageError where the first names no program."""
    import shlex

    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise UsageError(f"command {text!r}: {error}") from None
    if not words:
        raise UsageError("command: expected a program and its arguments, found an empty text")
    if shutil.which(words[0]) is None:
        raise UsageError(f"command {text!r}: {words[0]!r} is no program that can be run")
    return words


def run_hook(command: Sequence[str], event: WatchEvent, *, limit: float | None = None) -> str | None:
    """Run it to its end, or for `limit` seconds; None where it succeeded, else what went wrong in words.

    Its stdout goes to stderr, where it cannot be taken for events. It has a session of its own: when this process is
    interrupted, or the limit is over, it is ended with whatever it started. What it leaves running by itself stays.
    """
    told = {
        "ADAPTERS_EVENT": event.event,
        "ADAPTERS_WATCHED": event.watched,
        "ADAPTERS_REF": event.ref,
        "ADAPTERS_DIGEST": event.digest,
        "ADAPTERS_PATH": event.path,
        "ADAPTERS_PREVIOUS_DIGEST": event.previous_digest,
    }
    environment = environment_with({name: "" if value is None else str(value) for name, value in told.items()})
    try:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=2, start_new_session=True)
    except OSError as error:
        return f"{command[0]} could not be started: {error.strerror}"
    try:
        code = process.wait(None if limit is None else max(limit, _PATIENCE_S))
    except subprocess.TimeoutExpired:
        _stop(process)
        return f"{command[0]} was ended when the time was over"
    except BaseException:
        _stop(process)
        raise
    if code == 0:
        return None
    return f"{command[0]} was ended by signal {-code}" if code < 0 else f"{command[0]} ended with exit code {code}"


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Asks the session to end, waits for its first process, and ends what is then left of it."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    end = time.monotonic() + _PATIENCE_S
    # Looked at and not yet collected: as long as that is so nobody else gets its number.
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None and time.monotonic() < end:
        time.sleep(0.02)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
