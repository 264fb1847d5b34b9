"""Documentation that cannot rot: every command has help and examples, and the console blocks of README and docs/ run as they stand.

In a ```console block a line `$ …` is run by bash; a backslash at its end continues it, a comment `# exit N` at its end names the
exit code where it is not 0. Lines below it are what a terminal shows, with `...` for anything; without such lines only the exit code
counts. All blocks run in order, in one folder that holds a copy of examples/, with one empty home. ```console no-run is not run.
"""

from __future__ import annotations

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import click
import pytest
import torch

from registry.cli.failure import run
from registry.cli.root import VERBS, root
from registry.settings import environment_with
from tests import commands

ROOT = Path(__file__).parent.parent
FENCE = re.compile(r"^```console(?P<flags>[^\n]*)\n(?P<body>.*?)^```", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"`(\w+(?:\.py|/))`")
EXIT = re.compile(r"\s+# exit (\d+)$")
PLAIN = re.compile(r"adapters (\S+)[^|&;<>$`*?(){}~#\\]*$")
SLOW_TO_IMPORT = (
    "alembic.command",
    "sqlalchemy.orm",
    "torch",
    "engine.merge",
    "registry.merges.merge",
    "registry.cli.shown.findings",
)
# what a newcomer does not meet in the README
ELSEWHERE = {
    "lock",
    "plan",
    "impact",
    "convert",
    "migrate",
    "undelete",
    "metric",
    "which",
    "verify",
    "export",
    "import",
    "backup",
}


@dataclass(frozen=True)
class Step:
    """One command of the README, what a terminal should show, and the code it should leave with."""

    command: str
    shown: tuple[str, ...]
    code: int = 0


COMMANDS = [("", root), *commands.COMMANDS]
LEAVES = [(name, command) for name, command in COMMANDS if not isinstance(command, click.Group)]


def steps(text: str) -> list[Step]:
    """The commands of all console blocks in order."""
    found: list[Step] = []
    for block in FENCE.finditer(text):
        if "no-run" not in block["flags"]:
            found += _steps_of_block(block["body"])
    return found


def _steps_of_block(body: str) -> list[Step]:
    lines = re.sub(r"\\\n(?:> )?\s*", "", body).splitlines()
    starts = [place for place, line in enumerate(lines) if line.startswith("$ ")] + [len(lines)]
    found = []
    for start, end in pairwise(starts):
        command = lines[start].removeprefix("$ ")
        code = EXIT.search(command)
        shown = tuple(line.rstrip() for line in lines[start + 1 : end] if line.strip())
        found.append(Step(EXIT.sub("", command), shown, int(code[1]) if code else 0))
    return found


def matches(shown: tuple[str, ...], output: str) -> bool:
    """Whether output is what the block shows; blank lines and spaces at line ends do not count."""
    lines = "\n".join(line.rstrip() for line in output.splitlines() if line.strip())
    pattern = ".*".join(re.escape(part) for part in "\n".join(shown).split("..."))
    return re.fullmatch(pattern, lines, re.DOTALL) is not None


def test_steps_are_read_from_console_blocks_only():
    text = "```console\n$ a \\\n    b\none\n\n$ c  # exit 4\n```\n```console no-run\n$ d\n```\n```bash\ne\n```\n"

    assert steps(text) == [Step("a b", ("one",)), Step("c", (), 4)]


@pytest.mark.parametrize(
    ("shown", "output", "same"),
    [
        (("a ... c",), "a b c\n", True),
        (("a", "...", "z"), "a\nb\nc\nz\n", True),
        (("a",), "a  \n\n", True),
        (("a",), "a\nb\n", False),
        (("a.c",), "abc\n", False),
    ],
)
def test_dots_stand_for_anything_and_nothing_else_does(shown: tuple[str, ...], output: str, same: bool):
    assert matches(shown, output) is same


@pytest.mark.parametrize(("name", "command"), COMMANDS, ids=[name or "adapters" for name, _ in COMMANDS])
def test_every_command_has_help_and_one_to_three_examples(name: str, command: click.Command):
    examples = command.examples  # type: ignore[attr-defined] (every command is a Verb or Verbs)

    assert command.help
    assert 1 <= len(examples) <= 3
    assert all(f"adapters {name}".strip() in example for example in examples)


@pytest.mark.parametrize(("name", "command"), LEAVES, ids=[name for name, _ in LEAVES])
def test_examples_parse(name: str, command: click.Command):
    """Each example is a command line that its command accepts."""
    for example in command.examples:  # type: ignore[attr-defined] (every command is a Verb or Verbs)
        inner = re.search(rf"\$\((adapters {name}\b[^)]*)\)", example)
        line = inner[1] if inner else example.partition(" > ")[0]
        words = shlex.split(line)[1 + len(name.split()) :]
        command.make_context(name, words, obj=type("Anything", (), {})())


@pytest.mark.parametrize(("name", "command"), LEAVES, ids=[name for name, _ in LEAVES])
def test_every_option_has_help(name: str, command: click.Command):
    silent = [item.opts for item in command.params if isinstance(item, click.Option) and not item.help]

    assert silent == []


@pytest.mark.parametrize("verb", sorted(set(VERBS) - ELSEWHERE))
def test_the_readme_shows_each_verb_a_newcomer_meets(verb: str):
    assert f"adapters {verb}" in (ROOT / "README.md").read_text(encoding="utf-8")


def rooms_files(room: Path) -> list[str]:
    """What a room is made of: `x.py` for its modules, `x/` for the rooms in it."""
    modules = [path.name for path in room.glob("*.py") if path.name != "__init__.py"]
    return sorted(modules + [f"{path.parent.name}/" for path in room.glob("*/__init__.py")])


def named_in_tables(text: str) -> list[str]:
    """The modules and rooms in the first cells of all tables, as often as they stand there."""
    first_cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("|")]
    return sorted(name for cell in first_cells for name in FILE.findall(cell) if name != "__init__.py")


ROOMS = sorted(path.parent for room in ("registry", "engine") for path in (ROOT / room).rglob("README.md"))


@pytest.mark.parametrize("room", ROOMS, ids=[str(room.relative_to(ROOT)) for room in ROOMS])
def test_the_table_of_a_room_names_each_of_its_files_once(room: Path):
    assert named_in_tables((room / "README.md").read_text(encoding="utf-8")) == rooms_files(room)


def test_a_table_names_files_in_its_first_cells_only():
    text = "`a.py`\n| file | holds |\n|---|---|\n| `b.py`, `c.py` | `d.py` |\n| `e/` `b.py` | x |\n| `svd` | y |\n"

    assert named_in_tables(text) == ["b.py", "b.py", "c.py", "e/"]


def said(command: str, folder: Path) -> tuple[int, str]:
    """The exit code of a command and all that it says, in a process of its own."""
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout


def said_by_a_fork(command: str, folder: Path) -> tuple[int, str]:
    """The same for `adapters …` without anything for a shell, in a fork, which has imported all that is slow to import."""
    heard = folder.parent / "said"
    child = os.fork()
    if child == 0:
        code = 70
        try:
            os.chdir(folder)
            descriptor = os.open(heard, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            sys.stdout = os.fdopen(1, "w", encoding="utf-8")
            sys.stderr = os.fdopen(2, "w", encoding="utf-8", buffering=1)
            torch.set_num_threads(1)  # the threads that earlier tests began did not come along, and would be waited for
            code = run(shlex.split(command)[1:])
            sys.stdout.flush()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), heard.read_text(encoding="utf-8")


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("page", ["README.md", "docs/operations.md"])
@pytest.mark.parametrize("started", ["first", pytest.param("all", marks=pytest.mark.slow)])
def test_the_page_runs(page: str, started: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Every console block, in order, with the real command line.

    The first command, and what needs a shell, in a process that is started for it; the long run starts one for each.
    """
    plan = steps((ROOT / page).read_text(encoding="utf-8"))
    assert plan, f"{page} has no console blocks"
    folder = tmp_path / "folder"
    shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    environment = {
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(folder),
        "ADAPTERS_HOME": str(folder / "home"),
        "COLUMNS": "200",
        "LC_ALL": "C.UTF-8",
    }
    for name in environment_with({}):
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for module in SLOW_TO_IMPORT:
        importlib.import_module(module)

    for place, step in enumerate(plan):
        forked = started == "first" and place > 0 and PLAIN.match(step.command)
        code, output = said_by_a_fork(step.command, folder) if forked else said(step.command, folder)
        assert code == step.code, f"$ {step.command}\n{output}"
        assert not step.shown or matches(step.shown, output), f"$ {step.command}\n{output}"
