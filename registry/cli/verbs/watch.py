"""`watch`."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from registry.cli.command import Verb
from registry.cli.params import Reference
from registry.cli.shown.output import emit_line, note
from registry.cli.shown.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry.cli.invocation import Invocation
    from registry.pulls.watch import WatchEvent


@click.command(
    cls=Verb,
    examples=[
        "adapters watch team/sql@prod --exec ./reload.sh",
        "adapters watch team/sql@prod --interval 30s --format json",
        "adapters watch team/sql@latest --once --timeout 60s",
    ],
)
@click.argument("ref", type=Reference(), metavar="NAME@ALIAS")
@click.option("--exec", "command", metavar="CMD", help="Run this for each event, without a shell.")
@click.option("--interval", metavar="D", default="5s", show_default=True, help="How often to look, from 1s.")
@click.option("--once", is_flag=True, help="End after the first event, once its command succeeded.")
@click.option("--timeout", metavar="D", help="End after this long, such as 90s or 12h.")
@click.pass_obj
def watch(
    invocation: Invocation, ref: str, *, command: str | None, interval: str, once: bool, timeout: str | None
) -> int:
    """Follow an alias: print what it names now, then every change.

    One line an event; with --format json one JSON document a line. A version is pulled and verified before it is
    announced. Moves that are overtaken between two looks are skipped; the newest state never is.

    CMD finds ADAPTERS_EVENT (current, moved, removed), ADAPTERS_WATCHED, ADAPTERS_REF, ADAPTERS_DIGEST, ADAPTERS_PATH
    and ADAPTERS_PREVIOUS_DIGEST in its environment; its output goes to stderr. One that fails is run again, later each
    time, until it succeeds or a newer event comes. When watch is interrupted CMD is ended with all that it started,
    and so is one that still runs when --timeout is over. While database or store are away, watch says so and goes on.

    Exit code 3 where --timeout ends it while CMD fails, 7 where nothing could be reached before, 130 when interrupted.
    """
    from registry.browse.filters import parse_duration
    from registry.pulls.hook import parse_command

    words = () if command is None else parse_command(command)
    seconds = parse_duration(interval).total_seconds()
    if seconds < 1:
        raise click.BadParameter(f"{interval!r}: expected 1s or more", param_hint="'--interval'")
    limit = None if timeout is None else parse_duration(timeout).total_seconds()
    with _terminable():
        following = invocation.registry.watch(
            ref, interval=seconds, timeout=limit, once=once, command=words, notice=note
        )
        for event in following:
            emit_line(invocation, event, human=_line(event), quiet=str(event.path or "-"))
    return 3 if following.command_fails else 0


@contextmanager
def _terminable() -> Iterator[None]:
    """A service manager's SIGTERM, or a terminal's SIGHUP, ends it as Control-C does: the command is ended too, and the
    exit code is 130. One that is to be ignored (nohup) still is.
    """

    def stop(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    handled = [one for one in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(one) != signal.SIG_IGN]
    before = {one: signal.signal(one, stop) for one in handled}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _line(event: WatchEvent) -> str:
    if event.ref is None:
        return f"{event.event}  {printable(event.watched)}"
    return f"{event.event}  {printable(event.watched)} -> {event.ref}  {event.digest}  {printable(str(event.path))}"
