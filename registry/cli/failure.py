"""The one place where an error becomes a line on stderr and an exit code."""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING

import click

from engine.errors import EngineError, RefusedError
from registry.cli.invocation import Invocation, open_registry
from registry.cli.root import root
from registry.cli.shown.output import note
from registry.errors import FindingsError, RegistryError
from registry.settings import completion_request

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from registry.api import Registry
    from registry.settings import Settings

USAGE, UNAVAILABLE, BUG, INTERRUPTED, CLOSED_PIPE = 2, 7, 70, 130, 141
# what a full, read-only, failing or forbidden disk says: the world's fault, not a bug here
_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.EMFILE})


def run(arguments: Sequence[str], *, opener: Callable[[Settings], Registry] = open_registry) -> int:
    """Run one command line; the exit code of design section 6. Never raises."""
    invocation = Invocation(opener=opener)
    try:
        code = _run(invocation, arguments)
    except BrokenPipeError:  # while an error was being told
        code = CLOSED_PIPE
    return _flush(code)


def _run(invocation: Invocation, arguments: Sequence[str]) -> int:
    request = completion_request()
    if request is not None:
        from registry.cli.verbs.completion import answer

        answer(root, request)
        return 0
    try:
        # not root.main(): click would answer a closed pipe with exit code 1
        with root.make_context("adapters", list(arguments), obj=invocation) as context:
            code = root.invoke(context)
    except BrokenPipeError:
        return CLOSED_PIPE
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except (click.exceptions.Abort, KeyboardInterrupt):
        note("stopped before the end", kind="interrupted")
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 (every error ends here; _explain tells them apart)
        return _explain(invocation, error)
    return code if isinstance(code, int) else 0


def _explain(invocation: Invocation, error: Exception) -> int:
    if invocation.debug:
        _print_traceback(error)
    if isinstance(error, click.ClickException):
        return _explain_usage(error)
    if isinstance(error, (FindingsError, RefusedError)):
        return _explain_findings(invocation, error)
    if isinstance(error, (RegistryError, EngineError)):
        return _say(str(error), hint=getattr(error, "hint", None), code=error.exit_code)
    if isinstance(error, OSError) and error.errno in _DISK:
        place = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, (str, bytes)) else ""
        return _say(f"{place}{error.strerror}", code=UNAVAILABLE)
    if isinstance(error, ImportError):
        return _say(f"this installation is incomplete: {error}", hint="reinstall adapter-registry", code=BUG)
    hint = None if invocation.debug else "run with --debug for the traceback"
    return _say(f"a bug in adapters: {type(error).__name__}: {error}", hint=hint, code=BUG)


def _explain_usage(error: click.ClickException) -> int:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
        return USAGE
    context = error.ctx if isinstance(error, click.UsageError) else None
    hint = f"{context.command_path} --help" if context else None
    return _say(error.format_message(), hint=hint, code=USAGE)


def _explain_findings(invocation: Invocation, error: FindingsError | RefusedError) -> int:
    from registry.cli.shown.findings import emit_refusal

    emit_refusal(invocation, getattr(error, "subjects", ()), error.findings)
    return _say(str(error), hint=getattr(error, "hint", None), code=error.exit_code)


def _say(message: str, *, code: int, hint: str | None = None) -> int:
    note(message, kind="error")
    if hint:
        note(hint, kind="hint")
    return code


def _print_traceback(error: Exception) -> None:
    import traceback

    traceback.print_exception(error)


def _flush(code: int) -> int:
    """Flush what is left now, where a failure can still become an exit code."""
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except OSError as error:
        code = CLOSED_PIPE if isinstance(error, BrokenPipeError) else code or UNAVAILABLE
        _discard_output()
    else:
        if code == CLOSED_PIPE:
            _discard_output()
    return code


def _discard_output() -> None:
    """Point both streams at nothing, so that the interpreter's own flush at exit cannot fail again."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(nothing, descriptor)
    os.close(nothing)
