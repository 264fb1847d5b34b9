"""`completion`, and the answer to a shell's TAB."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stderr
from typing import TYPE_CHECKING

import click

from registry.cli.command import Verb
from registry.cli.invocation import Invocation
from registry.cli.shells import SCRIPTS
from registry.cli.shown.output import emit, write

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from registry.settings import CompletionRequest

# A shell puts a word on the line as it is: nothing that it would expand, run or obey is ever offered.
_SAFE = re.compile(r"[A-Za-z0-9._/@:=+,%-]+", re.ASCII)
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=", re.ASCII)
_KINDS = {"file": "files", "dir": "folders"}


@click.command(
    cls=Verb,
    examples=[
        'eval "$(adapters completion bash)"    # in ~/.bashrc; for zsh in ~/.zshrc, after compinit',
        "adapters completion fish > ~/.config/fish/completions/adapters.fish",
    ],
)
@click.argument("shell", type=click.Choice(list(SCRIPTS)))
@click.pass_obj
def completion(invocation: Invocation, shell: str) -> None:
    """Print the script for TAB completion in bash, zsh or fish.

    It completes verbs, options, namespaces, names, aliases, versions, bases, methods and paths. TAB only reads: it
    creates no registry, upgrades none, and offers nothing where there is none.
    """
    script = SCRIPTS[shell]
    document = {"shell": shell, "script": script}
    emit(invocation, document, human=script.splitlines, quiet=script.splitlines)


def answer(group: click.Group, request: CompletionRequest) -> None:
    """Print what a shell asked for: its script, or the words that may stand at the cursor. Never fails."""
    shell, _, instruction = request.instruction.partition("_")
    if instruction == "source" and shell in SCRIPTS:
        write(SCRIPTS[shell])
    if instruction == "complete" and shell in SCRIPTS:
        write("".join(f"{line}\n" for line in _answer(group, request.line)))


def _answer(group: click.Group, line: str) -> list[str]:
    words, typed = _words(line)
    with redirect_stderr(io.StringIO()):
        try:
            items = _items(group, words, typed)
        except Exception:  # noqa: BLE001 (a shell waits for words: there is nobody to tell)
            return []
    kinds = {_KINDS[item.type] for item in items if item.type in _KINDS}
    if kinds:
        return [f"{kinds.pop()}\t"]
    option, mark, _ = typed.partition("=")
    prefix = option + mark if mark and option.startswith("--") else ""
    shown = [_shown(prefix + item.value, item.help) for item in items if _SAFE.fullmatch(item.value)]
    return [f"words\t{typed if typed.isprintable() else ''}", *shown]


def _items(group: click.Group, words: list[str], typed: str) -> list[CompletionItem]:
    from click.shell_completion import ShellComplete

    asked = ShellComplete(group, {"obj": Invocation()}, "adapters", "")
    return asked.get_completions(words, typed)


def _words(line: str) -> tuple[list[str], str]:
    """The words after the command's name, and the one at the cursor, which may be empty."""
    from click.shell_completion import split_arg_string

    words = split_arg_string(line)
    typed = words.pop() if words and not line[-1].isspace() else ""
    while words and _ASSIGNMENT.match(words[0]):
        words.pop(0)
    return words[1:], typed


def _shown(value: str, text: str | None) -> str:
    """A word with its help on one line, without anything a terminal obeys."""
    plain = " ".join("".join(char if char.isprintable() else " " for char in text or "").split())
    return f"{value}\t{plain}" if plain else value
