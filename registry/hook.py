"""The command that watch runs for an event: no shell, the event in its environment, its output on stderr."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

from registry.errors import UsageError
from registry.settings import environment_with

if TYPE_CHECKING:
    from collections.abc import Sequence

    from registry.watch import WatchEvent

_PATIENCE_S = 10.0  # how long an interrupted command may take to end


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


def run_hook(command: Sequence[str], event: WatchEvent) -> str | None:
    """Run it to its end; None where it succeeded, else what went wrong in words.

    Its stdout goes to stderr, where it cannot be taken for events. When this process is interrupted, so is it.
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
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=2)
    except OSError as error:
        return f"{command[0]} could not be started: {error.strerror}"
    try:
        code = process.wait()
    except BaseException:
        _stop(process)
        raise
    if code == 0:
        return None
    return f"{command[0]} was ended by signal {-code}" if code < 0 else f"{command[0]} ended with exit code {code}"


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
