"""Human, json or quiet, onto stdout; notes onto stderr."""

from __future__ import annotations

import json
import math
import sys
from typing import TYPE_CHECKING, Any

import click

from registry.cli.shown.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from registry.cli.invocation import Invocation


def emit(
    invocation: Invocation,
    result: Any,
    *,
    human: Callable[[], Iterable[str]],
    quiet: Callable[[], Iterable[str]],
) -> None:
    """Print a result in the format that was asked for. `human` yields lines already escaped, `quiet` ids."""
    form = invocation.settings.output
    if form == "json":
        write(f"{as_json(result)}\n")
        return
    lines = human() if form == "human" else (printable(identity) for identity in quiet())
    write("".join(f"{line}\n" for line in lines))


def emit_line(invocation: Invocation, result: Any, *, human: str, quiet: str) -> None:
    """Print one of several results as a line of its own: newline-delimited JSON, or text already escaped."""
    form = invocation.settings.output
    write(f"{as_json(result, indent=None) if form == 'json' else human if form == 'human' else printable(quiet)}\n")


def write(text: str) -> None:
    """Data onto stdout at once; OSError names stdout where the system does not."""
    try:
        if text:
            click.echo(text, nl=False)
    except OSError as error:
        raise OSError(error.errno, error.strerror, "stdout") from None


def as_json(result: Any, *, indent: int | None = 2) -> str:
    """One ASCII-safe document; numbers that JSON has no word for become null."""
    from registry.values.plainjson import to_json

    return json.dumps(_finite(to_json(result)), indent=indent, ensure_ascii=True, allow_nan=False)


def note(text: str, *, kind: str = "note") -> None:
    """One line for people, on stderr."""
    click.echo(f"{kind}: {printable(text)}", err=True)


def styled(invocation: Invocation, text: str, *, colour: str) -> str:
    """Coloured text where stdout is a terminal and colour was not declined; else the text itself."""
    if not invocation.settings.color or sys.stdout is None or not sys.stdout.isatty():
        return text
    return click.style(text, fg=colour)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list) else value
