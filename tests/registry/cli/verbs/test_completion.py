"""TAB: what a shell is answered, and real shells that ask."""

import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from registry.catalog.database import Database
from registry.cli.failure import run
from registry.cli.root import VERBS, root
from registry.cli.shells import SCRIPTS
from registry.cli.verbs.completion import answer
from registry.completion import METHODS
from registry.settings import CompletionRequest
from tests.factories import make_settings, publish

ROOT = Path(__file__).parents[4]


@pytest.fixture(scope="module")
def catalog(tmp_path_factory, sqlite_template):
    """A catalog of team/chat and of team/sql with the aliases prod and canary."""
    settings = make_settings(tmp_path_factory.mktemp("home"))
    settings.catalog_file.write_bytes(sqlite_template.read_bytes())
    database = Database(settings.resolved_database_url)
    publish(database, "team/sql", 1, aliases=("prod",))
    publish(database, "team/sql", 2, aliases=("canary",))
    publish(database, "team/chat", 3)
    database.dispose()
    return settings.catalog_file


@pytest.fixture
def place(tmp_path, catalog, monkeypatch):
    """A home with that catalog and a folder to work in, which holds ./outdir and ./file.txt."""
    settings = make_settings(tmp_path / "home")
    settings.home.mkdir()
    shutil.copyfile(catalog, settings.catalog_file)
    work = tmp_path / "work"
    (work / "outdir").mkdir(parents=True)
    (work / "file.txt").touch()
    for name in ("ADAPTERS_DATABASE_URL", "ADAPTERS_STORE_URL", "ADAPTERS_NAMESPACE", "ADAPTERS_FORMAT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ADAPTERS_HOME", str(settings.home))
    monkeypatch.chdir(work)
    return work


@pytest.fixture
def tab(place, capfd):
    """The lines that a shell is answered for a line up to the cursor."""

    def ask(line):
        answer(root, CompletionRequest("bash_complete", line))
        captured = capfd.readouterr()
        assert captured.err == ""
        return captured.out.splitlines()

    return ask


def words(lines):
    assert lines[0].startswith("words\t"), lines
    return [line.partition("\t")[0] for line in lines[1:]]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("adapters li", ["list", "lineage"]),
        ("adapters convert team/sql --for v", ["vllm"]),
        ("adapters check team/sql --for s", ["sglang"]),
        ("adapters plan --for vllm@", ["vllm@0.33.0"]),
        ("adapters check team/sql --for vllm@0.31.0:", ["vllm@0.31.0:max_lora_rank="]),
        ("adapters check team/sql --for vllm:max_lora_rank=1", []),
        ("adapters impact --for llamacpp:", []),
        ("adapters show te", ["team/"]),
        ("adapters show team/", ["team/chat", "team/sql"]),
        (
            "adapters show team/sql@",
            ["team/sql@canary", "team/sql@prod", "team/sql@latest", "team/sql@2", "team/sql@1"],
        ),
        ("adapters check team/sql@p", ["team/sql@prod"]),
        ("adapters diff team/chat team/sql@c", ["team/sql@canary"]),
        ("adapters merge team/chat team/sql@c", ["team/sql@canary"]),
        ("adapters alias rm team/sql ", ["canary", "prod"]),
        ("adapters alias rm team/sql@1 c", ["canary"]),
        ("adapters push ./x team/s", ["team/sql"]),
        ("adapters merge --combination ", list(METHODS)),
        ("adapters merge --combination=l", ["--combination=linear"]),
        ("adapters list --alias p", ["prod"]),
        ("adapters list --type ad", ["adalora", "adamss", "adaption_prompt"]),
        ("adapters list --sort c", ["created", "created:desc"]),
        ("adapters push --allow pair-i", ["pair-incomplete"]),
        ("adapters list --format j", ["json"]),
        ("adapters push ./x team/y --rel", ["--relation"]),
        ("adapters push ./x team/y --relation c", ["converted_from"]),
        ("adapters completion ", ["bash", "zsh", "fish"]),
        ("HOME=/x adapters completion z", ["zsh"]),
        ("adapters show 'team/sq", ["team/sql"]),
        ("adapters show nobody/", []),
    ],
)
def test_words_that_may_stand_at_the_cursor(tab, line, found):
    assert words(tab(line)) == found


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("adapters push ", "files"),
        ("adapters check ./o", "files"),
        ("adapters diff team/sql ../", "files"),
        ("adapters check x --base ~/mod", "files"),
        ("adapters which fi", "files"),
        ("adapters pull team/sql --to ", "folders"),
    ],
)
def test_paths_are_left_to_the_shell(tab, line, kind):
    assert tab(line) == [f"{kind}\t"]


def test_the_answer_says_which_word_it_completes_and_what_verbs_are_for(tab):
    assert tab("adapters whi") == ["words\twhi", "which\tFind the versions that hold a file, or its..."]


def test_every_verb_is_offered(tab):
    assert words(tab("adapters ")) == list(VERBS)


def test_home_given_on_the_line_counts(tab, tmp_path):
    assert words(tab(f"adapters show --home {tmp_path}/none te")) == []


@pytest.mark.parametrize("instruction", ["bash", "bash_", "tcsh_complete", "_", "complete"])
def test_an_unknown_request_is_answered_with_nothing(place, capfd, instruction):
    answer(root, CompletionRequest(instruction, "adapters li"))

    assert capfd.readouterr() == ("", "")


def test_words_that_a_shell_would_act_on_are_never_offered(tab, place):
    """A base's name is whatever somebody wrote."""
    import sqlite3

    connection = sqlite3.connect(place.parent / "home" / "catalog.db")
    values = ("layout", 1, 1, "{}", "{}")
    connection.execute(
        "INSERT INTO bases (layout, tensors, parameter_count, parameters, config) VALUES (?, ?, ?, ?, ?)",
        (f"sha256:{'a' * 64}", *values[1:]),
    )
    evil = ["$(touch x)", "a;b", "`id`", "a b", "\x1b[2Jx", "a\nb", "'q'", "*", "good/base"]
    connection.executemany("INSERT INTO base_names (name, base_id) VALUES (?, 1)", [(name,) for name in evil])
    connection.commit()
    connection.close()

    assert words(tab("adapters list --base ")) == ["good/base"]


def test_no_registry_no_words_no_files(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("ADAPTERS_HOME", str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)
    answer(root, CompletionRequest("bash_complete", "adapters show te"))

    assert capfd.readouterr() == ("words\tte\n", "")
    assert list(tmp_path.iterdir()) == []


def test_a_project_file_that_cannot_be_read_says_nothing(tmp_path, monkeypatch, capfd):
    (tmp_path / "adapters.toml").write_text("= nonsense")
    monkeypatch.chdir(tmp_path)
    answer(root, CompletionRequest("bash_complete", "adapters show te"))

    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("shell", list(SCRIPTS))
def test_the_verb_prints_the_script(place, capfd, shell):
    assert run(["completion", shell]) == 0
    assert capfd.readouterr().out == SCRIPTS[shell]
    assert run(["completion", shell, "--format", "json"]) == 0
    assert json.loads(capfd.readouterr().out) == {"shell": shell, "script": SCRIPTS[shell]}


def test_tab_imports_neither_sqlalchemy_nor_torch(place):
    code = "import sys\nfrom registry.cli.failure import run\nrun([])\nprint(sorted(sys.modules), file=sys.stderr)"
    environment = {
        "ADAPTERS_HOME": str(place.parent / "home"),
        "PATH": "/usr/bin:/bin",
        "_ADAPTERS_COMPLETE": "bash_complete",
        "_ADAPTERS_LINE": "adapters show te",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)

    assert done.stdout == "words\tte\nteam/\n"
    assert not {"sqlalchemy", "torch", "numpy", "alembic", "rich", "psycopg"} & set(re.findall(r"'(\w+)'", done.stderr))


# Real shells


@pytest.fixture
def commands(place, tmp_path):
    """An environment for a shell whose `adapters` is this one."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "adapters"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m registry "$@"\n')
    script.chmod(0o755)
    keep = {"ADAPTERS_HOME": str(tmp_path / "home"), "LC_ALL": "C.UTF-8"}
    path = f"{folder}:/usr/local/bin:/usr/bin:/bin"
    return {**keep, "PATH": path, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "TERM": "dumb", "PS1": "ready> "}


class Terminal:
    """A program at a pseudo terminal: what is typed, and what it shows."""

    def __init__(self, command, environment):
        self.child, self.descriptor = pty.fork()
        if self.child == 0:
            os.execvpe(command[0], command, environment)
        self.shown = ""

    def type(self, text):
        os.write(self.descriptor, text.encode())

    def until(self, pattern):
        """Everything shown since the last match, up to where the pattern is found."""
        end = time.monotonic() + 60
        while not (match := re.search(pattern, self.shown)):
            ready, _, _ = select.select([self.descriptor], [], [], max(0, end - time.monotonic()))
            assert ready, f"waited for {pattern!r}, saw {self.shown!r}"
            self.shown += os.read(self.descriptor, 4096).decode(errors="replace")
        seen, self.shown = self.shown[: match.end()], self.shown[match.end() :]
        return seen

    def close(self):
        os.close(self.descriptor)
        os.waitpid(self.child, 0)


@pytest.fixture
def bash(commands):
    terminal = Terminal(["bash", "--norc", "--noprofile", "-i"], commands)
    terminal.type("bind 'set enable-bracketed-paste off'; bind 'set bell-style none'; PS1='$?> '\n")
    terminal.until(r"\d+> $")
    # Control-X d shows the line as readline has it
    terminal.type('bind -x \'"\\C-xd": printf "<%s>" "$READLINE_LINE"\'\n')
    terminal.until(r"\d+> $")
    terminal.type('eval "$(adapters completion bash)"\n')
    terminal.until(r"0> $")
    yield terminal
    terminal.close()


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("adapters lis\t", "adapters list "),
        ("adapters show tea\tsq\t", "adapters show team/sql "),
        ("adapters show team/sql@pr\t", "adapters show team/sql@prod "),
        ("adapters show team/sql:pr\t", "adapters show team/sql:prod "),
        ("adapters merge --combination=li\t", "adapters merge --combination=linear "),
        ("adapters check ./outd\t", "adapters check ./outdir/"),
        ("adapters push fi\t", "adapters push file.txt "),
        ("adapters pull team/sql --to out\t", "adapters pull team/sql --to outdir/"),
    ],
)
def test_bash_completes_the_line(bash, typed, line):
    bash.type(f"{typed}\x18d")

    assert bash.until(r"<[^>]*>").rpartition("<")[2] == f"{line}>"


def test_bash_replaces_only_what_follows_the_last_break(commands, tmp_path):
    """The function itself, as bash calls it: words cut to what follows the last break."""
    program = """
        eval "$(adapters completion bash)"
        ask() { COMP_LINE="$1" COMP_POINT=${#1}; _adapters_complete adapters "$2" x 2>/dev/null; printf '%s|' "${COMPREPLY[@]}"; echo; }
        ask 'adapters show team/sql@' '@'
        ask 'adapters show team/sql@pr' '@pr'
        ask 'adapters show team/sql@pr' 'pr'
        ask 'adapters show team/sql:' ''
        ask 'adapters merge --combination=' ''
        ask 'adapters show nobody/' 'nobody/'
    """
    done = subprocess.run(["bash", "-c", program], env=commands, capture_output=True, text=True, check=True)

    assert done.stdout.splitlines() == [
        "@canary|@prod|@latest|@2|@1|",
        "@prod|",
        "prod|",
        "canary|prod|latest|2|1|",
        "|".join(METHODS) + "|",
        "|",
    ]


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed here")
def test_zsh_completes_the_line(commands):
    terminal = Terminal(["zsh", "-f", "-i"], commands)
    terminal.type("PROMPT='%?> '; unsetopt zle_bracketed_paste 2>/dev/null; autoload -Uz compinit && compinit -u -D\n")
    terminal.until(r"\d> ")
    terminal.type('eval "$(adapters completion zsh)"; echo sour""ced\n')
    terminal.until("sourced")
    for typed, line in (
        ("adapters show team/sql@pr\t", r"adapters show team/sql@prod"),
        ("adapters merge --combination=li\t", r"--combination=linear"),
        ("adapters check ./outd\t", r"\./outdir/"),
    ):
        terminal.type(typed)
        terminal.until(line)
        terminal.type("\x15")  # Control-U: the line goes
    terminal.close()


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed here")
@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("adapters show team/sql@p", ["team/sql@prod"]),
        ("adapters show te", ["team/"]),
        ("adapters merge --combination=l", ["--combination=linear"]),
        ("adapters check ./outd", ["./outdir/"]),
        ("adapters pull team/sql --to out", ["outdir/"]),
        ("adapters show nobody/", []),
    ],
)
def test_fish_completes_the_line(commands, line, found):
    program = f"adapters completion fish | source; complete -C '{line}'"
    done = subprocess.run(
        ["fish", "--no-config", "-c", program], env=commands, capture_output=True, text=True, check=True
    )

    assert [text.partition("\t")[0] for text in done.stdout.splitlines()] == found
