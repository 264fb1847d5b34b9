from __future__ import annotations

import json
import sys

import pytest

from engine.compat.finding import Finding
from registry.cli.invocation import Invocation
from registry.cli.shown.output import styled
from registry.results import Edge, LineageGraph, LogEntry, Node
from registry.settings import load_settings
from tests.registry.cli.stub import AT, DIGEST, Adapters, moved, pushed, version


def test_list_as_a_table(adapters: Adapters):
    """Text left, numbers right, sizes in units, moments in UTC; the data is all on stdout."""
    found = [version(), version("team/other-name@12", rank=None, base=None, aliases=(), tags={}, metrics={}, size=982)]

    outcome = adapters("list", list=found)

    assert outcome.code == 0
    assert outcome.err == ""
    assert outcome.out.splitlines() == [
        "REF                 TYPE  RANK     SIZE  BASE  ALIASES  TAGS      METRICS        CREATED",
        "team/sql@3          LORA    16  1.23 MB  gpt2  prod     task=sql  accuracy=0.91  2026-03-04T05:06:07Z",
        "team/other-name@12  LORA     -    982 B  -     -        -         -              2026-03-04T05:06:07Z",
    ]


def test_list_as_json_holds_the_fields_of_the_contract(adapters: Adapters):
    outcome = adapters("list", "--format", "json", list=[version()])

    assert json.loads(outcome.out) == [
        {
            "ref": "team/sql@3",
            "name": "team/sql",
            "version": 3,
            "digest": DIGEST,
            "base": "gpt2",
            "peft_type": "LORA",
            "rank": 16,
            "size": 1234567,
            "aliases": ["prod"],
            "tags": {"task": "sql"},
            "metrics": {"accuracy": 0.91},
            "created_at": "2026-03-04T05:06:07Z",
            "cursor": None,
            "deleted": False,
            "pushed_by": None,
            "git_commit": None,
            "run_id": None,
            "data_digest": None,
            "licence": None,
            "check": None,
        }
    ]


def test_list_quiet_is_one_ref_a_line(adapters: Adapters):
    assert adapters("list", "--format", "quiet", list=[version(), version("a/b@1")]).out == "team/sql@3\na/b@1\n"


def test_ls_is_list(adapters: Adapters):
    assert adapters("ls", "--format", "quiet", list=[version()]).out == "team/sql@3\n"


def test_an_empty_list_leaves_stdout_empty_and_says_so_beside(adapters: Adapters):
    outcome = adapters("list", list=[])

    assert (outcome.code, outcome.out, outcome.err) == (0, "", "note: no versions match\n")


def test_an_empty_list_is_an_empty_array_in_json(adapters: Adapters):
    assert json.loads(adapters("list", "--format", "json", list=[]).out) == []


def test_a_full_page_names_the_next_one_on_stderr(adapters: Adapters):
    outcome = adapters("list", "--limit", "1", "--format", "quiet", list=[version(cursor="c1")])

    assert outcome.out == "team/sql@3\n"
    assert "--cursor c1" in outcome.err


def test_a_page_that_is_not_full_is_the_last(adapters: Adapters):
    assert adapters("list", "--limit", "2", list=[version(cursor="c1")]).err == ""


def test_environment_chooses_the_format_and_a_flag_wins(adapters: Adapters, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ADAPTERS_FORMAT", "quiet")

    assert adapters("list", list=[version()]).out == "team/sql@3\n"
    assert adapters("list", "--format", "json", list=[]).out == "[]\n"


def test_text_is_another_word_for_human(adapters: Adapters, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ADAPTERS_FORMAT", "json")

    assert adapters("list", "--format", "text", list=[version()]).out.startswith("REF")


@pytest.mark.parametrize("form", ["human", "quiet", "json"])
def test_stored_text_reaches_no_terminal_raw(adapters: Adapters, form: str):
    """Whatever a stranger wrote into a tag or a base name, the output is lines of printable characters."""
    hostile = version(base="\x1b]0;owned\x07", tags={"k": "a\nb\u202e"}, ref="team/sql@3")

    out = adapters("list", "--format", form, list=[hostile]).out

    assert all(line.isprintable() for line in out.split("\n"))
    assert "\u202e" not in out


def test_json_is_ascii(adapters: Adapters):
    out = adapters("list", "--format", "json", list=[version(tags={"ort": "Köln 日本\udc80"})]).out

    assert out.isascii()
    assert json.loads(out)[0]["tags"] == {"ort": "Köln 日本\udc80"}


def test_numbers_json_has_no_word_for_become_null(adapters: Adapters):
    out = adapters("list", "--format", "json", list=[version(metrics={"a": float("nan"), "b": float("inf")})]).out

    assert json.loads(out)[0]["metrics"] == {"a": None, "b": None}


def test_push_prints_the_version_then_what_was_left_out_then_findings(adapters: Adapters):
    finding = Finding("zero-b", "warning", "all B are zero", where="layer.0", fix="train longer")
    result = pushed(left_out=("checkpoint-7/", "optimizer.pt"), findings=(finding,), notes=("newest is 4",))

    outcome = adapters("push", "./x", "team/sql", push=result)

    assert outcome.out.splitlines() == [
        "pushed  team/sql@3",
        f"digest  {DIGEST}",
        "left out: checkpoint-7/, optimizer.pt",
        "warning  zero-b  all B are zero [layer.0]",
        "         fix: train longer",
    ]
    assert outcome.err == "note: newest is 4\n"


def test_pushing_content_again_says_unchanged(adapters: Adapters):
    assert adapters("push", "./x", "team/sql", push=pushed(created=False)).out.startswith("unchanged  team/sql@3\n")


def test_notes_stay_off_stdout_in_json(adapters: Adapters):
    outcome = adapters("push", "./x", "team/sql", "--format", "json", push=pushed(notes=("folded",)))

    assert json.loads(outcome.out)["notes"] == ["folded"]
    assert outcome.err == "note: folded\n"


def test_an_alias_move_names_where_it_was(adapters: Adapters):
    out = adapters("alias", "set", "team/sql@3", "prod", set_alias=moved()).out

    assert out == "prod -> team/sql@3 (before: version 2)\n"


def test_alias_list(adapters: Adapters):
    found = (moved(), moved(alias="canary", ref=None, version=None, previous=None))

    assert adapters("alias", "list", "team/sql", aliases=found).out.splitlines() == [
        "ALIAS   REF         BEFORE",
        "prod    team/sql@3       2",
        "canary  -                -",
    ]
    assert adapters("alias", "list", "team/sql", "--format", "quiet", aliases=found).out == "prod\ncanary\n"


def test_lineage_is_one_line_an_edge_and_marks_the_deleted(adapters: Adapters):
    graph = LineageGraph(
        nodes=(Node("a/m@1", "version"), Node("a/x@1", "version", deleted=True), Node("gpt2", "base")),
        edges=(Edge("a/m@1", "a/x@1", "merged_from", 0.5), Edge("a/m@1", "gpt2", "base")),
    )

    outcome = adapters("lineage", "a/m", lineage=graph)

    assert outcome.out.splitlines() == [
        "VERSION  RELATION     PARENT           WEIGHT",
        "a/m@1    merged_from  a/x@1 (deleted)     0.5",
        "a/m@1    base         gpt2                  -",
    ]


def test_lineage_without_edges_names_the_version(adapters: Adapters):
    assert adapters("lineage", "a/m", lineage=LineageGraph((Node("a/m@1", "version"),), ())).out == "a/m@1\n"


@pytest.mark.parametrize(
    ("flags", "up", "down"),
    [((), True, True), (("--up",), True, False), (("--down",), False, True), (("--up", "--down"), True, True)],
)
def test_lineage_goes_both_ways_unless_told(adapters: Adapters, flags: tuple[str, ...], up: bool, down: bool):
    outcome = adapters("lineage", "a/m", *flags, lineage=LineageGraph((), ()))

    assert outcome.calls == [("lineage", ("a/m",), {"up": up, "down": down})]


def test_log_tells_versions_and_alias_moves(adapters: Adapters):
    entries = (
        LogEntry("version", "t/s@1", 1, None, "pushed", None, "ann", "first", AT),
        LogEntry("alias", "t/s@2", 2, "prod", "set", 1, None, None, AT),
    )

    assert adapters("log", "t/s", log=entries).out.splitlines() == [
        "AT                    WHAT             VERSION  BEFORE  BY   MESSAGE",
        "2026-03-04T05:06:07Z  pushed                 1       -  ann  first",
        "2026-03-04T05:06:07Z  alias prod: set        2       1  -",
    ]


def test_no_colour_where_stdout_is_no_terminal(adapters: Adapters):
    finding = Finding("zero-b", "error", "all B are zero")

    assert "\x1b" not in adapters("push", "./x", "t/s", push=pushed(findings=(finding,))).out


@pytest.mark.parametrize(
    ("environ", "terminal", "coloured"),
    [
        ({}, True, True),
        ({"NO_COLOR": "1"}, True, False),
        ({"TERM": "dumb"}, True, False),
        ({"NO_COLOR": ""}, True, True),
        ({}, False, False),
    ],
)
def test_colour_needs_a_terminal_and_nobody_against_it(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], terminal: bool, coloured: bool
):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    invocation = Invocation(loaded=load_settings(environ={"HOME": "/h", "XDG_DATA_HOME": "/d", **environ}))

    assert ("\x1b[31m" in styled(invocation, "fail", colour="red")) is coloured


@pytest.mark.parametrize(
    ("arguments", "notes"),
    [
        (("push", "./X", "Team/sql"), ["note: upper case is folded: Team/sql means team/sql"]),
        (("push", "./X", "team/sql"), []),
        (("push", "./x", "a/b", "--alias", "Prod"), ["note: upper case is folded: Prod means prod"]),
    ],
)
def test_folding_upper_case_is_told(adapters: Adapters, arguments: tuple[str, ...], notes: list[str]):
    outcome = adapters(*arguments, push=pushed())

    assert [line for line in outcome.err.splitlines() if "folded" in line] == notes
