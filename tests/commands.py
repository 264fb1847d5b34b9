"""Every command of the command line, for tests that ask something of each."""

from __future__ import annotations

import click

from registry.cli.root import VERBS, root


def _commands() -> list[tuple[str, click.Command]]:
    context = click.Context(root)
    found: list[tuple[str, click.Command]] = []
    for verb in VERBS:
        command = root.get_command(context, verb)
        assert command is not None
        found.append((verb, command))
        if isinstance(command, click.Group):
            found += [(f"{verb} {name}", member) for name, member in command.commands.items()]
    return found


COMMANDS = _commands()
