"""`check` over a stub: where reports go, what the exit code is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from engine.compat.finding import Finding
from registry.findings.verdicts import Asked, Verdict, assemble
from registry.settings import environment_with

if TYPE_CHECKING:
    from pathlib import Path

    from tests.registry.cli.stub import Adapters

ERROR = Finding("rank", "error", "too high", target="t/a", where="r")
WARNING = Finding("dora", "warning", "on", target="t/a")
DOUBT = Finding("vllm-version", "inconclusive", "not in the table", target="t/a")


def report(*findings: Finding):
    return assemble([Verdict("t/a", "vllm", findings, (Asked("rank", "A rank is too high."),))])


@pytest.mark.parametrize(
    ("findings", "options", "code"),
    [
        ((), "", 0),
        ((WARNING,), "", 0),
        ((WARNING,), "--fail-on warning", 1),
        ((ERROR,), "", 1),
        ((DOUBT,), "", 3),
        ((DOUBT,), "--inconclusive allow", 0),
        ((DOUBT, WARNING), "", 3),
        ((DOUBT, WARNING), "--fail-on warning", 1),
        ((DOUBT, WARNING), "--fail-on warning --inconclusive allow", 1),
        ((DOUBT, ERROR), "--inconclusive allow", 1),
    ],
)
def test_the_exit_code_is_the_worst_that_the_options_let_count(adapters: Adapters, findings, options, code):
    assert adapters("check", "t/a", *options.split(), check_request=report(*findings)).code == code


def test_a_report_without_a_file_is_all_of_stdout(adapters: Adapters):
    outcome = adapters("check", "t/a", "--report", "json", "--format", "quiet", check_request=report(ERROR))

    assert json.loads(outcome.out)["status"] == "fail"
    assert outcome.code == 1


def test_reports_with_a_file_leave_stdout_alone(adapters: Adapters, tmp_path: Path):
    places = [tmp_path / "a.xml", tmp_path / "a.sarif"]
    wanted = [f"--report=junit={places[0]}", f"--report=sarif={places[1]}"]
    outcome = adapters("check", "t/a", *wanted, "--format", "quiet", check_request=report(ERROR))

    assert outcome.out == "rank\n"
    assert places[0].read_text().startswith("<?xml")
    assert json.loads(places[1].read_text())["version"] == "2.1.0"


def test_github_adds_the_page_to_the_steps_summary(adapters: Adapters, tmp_path: Path, monkeypatch):
    page = tmp_path / "summary.md"
    page.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    outcome = adapters("check", "t/a", "--report", "github", check_request=report(ERROR))

    assert outcome.out.splitlines()[0] == "::error title=rank::t/a: too high"
    assert page.read_text().startswith("before\n## adapters check: fail\n")


def test_a_report_that_cannot_be_written_is_a_usage_error(adapters: Adapters, tmp_path: Path):
    outcome = adapters("check", "t/a", f"--report=text={tmp_path}/none/a", check_request=report())

    assert outcome.code == 2
    assert "cannot be written" in outcome.err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("check", "expected a REF or PATH"),
        ("check t/a --report xml", "expected FORMAT"),
        ("check t/a --for nobody", "expected one of"),
        ("check t/a --for vllm@x", "expected a release"),
        ("check t/a --for vllm:max_lora_rank=none", "expected a positive number"),
        ("check t/a --all", "--all asks about each version"),
        ("check --all --base b", "--all asks about each version"),
        ("check t/a --write-baseline", "expected --baseline FILE"),
        ("check t/a --baseline none.toml", "cannot be read"),
        ("check t/a --locked --lock none.lock", ""),
        ("check --locked --lock none.lock", "cannot be read"),
        ("check t/a --lock none.lock", "--lock goes with --locked"),
    ],
)
def test_what_cannot_be_asked_is_a_usage_error(adapters: Adapters, line: str, message: str):
    outcome = adapters(*line.split(), check_request=report())

    assert outcome.code == (2 if message else 0)
    assert message in outcome.err


def test_human_output_names_the_question_where_there_are_several(adapters: Adapters):
    both = assemble([Verdict("t/a", "checkin", ()), Verdict("t/a", "vllm", (ERROR,))])

    assert adapters("check", "t/a", check_request=both).out.splitlines()[:2] == [
        "pass  t/a  checkin",
        "fail  t/a  vllm",
    ]


def test_a_list_by_check_says_how_many_answers_are_stale(adapters: Adapters):
    from registry.findings.verdicts import CheckState
    from tests.registry.cli.stub import version

    found = [version(check=CheckState("vllm", "pass", stale)) for stale in (True, False)]
    outcome = adapters("list", "--check", "vllm=pass", list=found)

    assert "1 of these answers are stale" in outcome.err


@pytest.mark.parametrize("command", ["check t/a", "push ./a t/a"])
def test_small_matrices_are_multiplied_by_one_thread(adapters: Adapters, monkeypatch, command):
    """Asked of the whole process before numpy is imported, and left as it was where it is said."""
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")  # so that it is put back
    monkeypatch.delenv("OPENBLAS_NUM_THREADS")
    adapters(*command.split())

    assert environment_with({})["OPENBLAS_NUM_THREADS"] == "1"
