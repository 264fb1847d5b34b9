"""One exit code and one line for each kind of failure (design section 6)."""

from __future__ import annotations

import errno
import json

import pytest

from engine.compat.finding import Finding
from engine.errors import HeaderError, MissingExtraError, OptionError, RefusedError
from registry.errors import (
    ConflictError,
    CorruptError,
    FindingsError,
    IntakeError,
    NotFoundError,
    SchemaError,
    UnavailableError,
    UsageError,
)
from registry.findings.verdicts import CheckReport
from registry.results import FsckResult, RegistryStatus, StoreFinding
from tests.registry.cli.stub import Adapters, version

CODES = [
    (UsageError("name 'X': expected"), 2),
    (IntakeError("./x: no such folder"), 2),
    (HeaderError("./x", "truncated", "short"), 2),
    (OptionError("rank 0"), 2),
    (MissingExtraError("merge", "torch", "engine"), 2),
    (NotFoundError("team/sql@9: no such version"), 4),
    (ConflictError("alias prod moved"), 5),
    (CorruptError("weights", expected="sha256:aa", actual="sha256:bb"), 6),
    (UnavailableError("catalog.db: locked"), 7),
    (SchemaError("database is newer"), 7),
    (ValueError("never meant to happen"), 70),
    (ModuleNotFoundError("No module named 'numpy'"), 70),
    (RecursionError("deep"), 70),
    (MemoryError(), 70),
    (KeyboardInterrupt(), 130),
    (BrokenPipeError(errno.EPIPE, "Broken pipe"), 141),
    (OSError(errno.ENOSPC, "No space left on device", "/home/x"), 7),
    (PermissionError(errno.EACCES, "Permission denied", "/home/x"), 7),
    (FileNotFoundError(errno.ENOENT, "No such file", "/home/x"), 70),
]


@pytest.fixture(autouse=True)
def _keep_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed pipe ends a process; here the test runner lives on and needs its file descriptors."""
    monkeypatch.setattr("registry.cli.failure._discard_output", lambda: None)


@pytest.mark.parametrize(("error", "code"), CODES, ids=lambda value: type(value).__name__)
def test_each_error_has_its_exit_code(adapters: Adapters, error: BaseException, code: int):
    outcome = adapters("show", "team/sql", show=error)

    assert outcome.code == code
    assert outcome.out == ""


def test_an_error_is_one_line_and_a_hint_another(adapters: Adapters):
    error = NotFoundError("team/sq: no such adapter", hint="did you mean team/sql?")

    assert adapters("show", "team/sq", show=error).err == (
        "error: team/sq: no such adapter\nhint: did you mean team/sql?\n"
    )


def test_an_error_about_hostile_text_stays_one_line(adapters: Adapters):
    assert adapters("show", "x", show=UsageError("name 'a\n\x1b[2J'")).err == "error: name 'a\\n\\x1b[2J'\n"


def test_a_bug_is_named_without_traceback(adapters: Adapters):
    assert adapters("show", "x", show=ValueError("oops")).err == (
        "error: a bug in adapters: ValueError: oops\nhint: run with --debug for the traceback\n"
    )


def test_debug_shows_the_traceback(adapters: Adapters):
    err = adapters("show", "x", "--debug", show=ValueError("oops")).err

    assert "Traceback (most recent call last)" in err
    assert "run with --debug" not in err


def test_a_full_disk_names_the_file(adapters: Adapters):
    error = OSError(errno.ENOSPC, "No space left on device", "/home/x")

    assert adapters("show", "x", show=error).err == "error: /home/x: No space left on device\n"


def test_the_missing_extra_names_the_command(adapters: Adapters):
    error = MissingExtraError("merge", "torch", "engine")

    assert "pip install 'adapter-registry[engine]'" in adapters("merge", "a", "b", "--into", "c", merge=error).err


def test_a_refused_push_prints_its_findings_as_data(adapters: Adapters):
    findings = [Finding("nan", "error", "NaN in lora_B", where="layer.0"), Finding("zero-b", "warning", "zero")]

    outcome = adapters("push", "./x", "t/s", push=FindingsError("./x", findings))

    assert outcome.code == 1
    assert outcome.out.splitlines() == ["error    nan     NaN in lora_B [layer.0]", "warning  zero-b  zero"]
    assert outcome.err == "error: ./x: refused by nan\n"


def test_a_refused_push_in_json_is_the_object_of_check(adapters: Adapters):
    finding = Finding("nan", "error", "NaN in lora_B", where="layer.0")

    outcome = adapters("push", "./x", "t/s", "--format", "json", push=FindingsError("./x", [finding]))

    assert outcome.code == 1
    assert json.loads(outcome.out) == {
        "status": "fail",
        "targets": {"./x": "fail"},
        "findings": [
            {
                "rule": "nan",
                "severity": "error",
                "target": "adapter",
                "message": "NaN in lora_B",
                "where": "layer.0",
                "fix": None,
            }
        ],
    }


def test_a_refused_merge_names_the_targets_of_its_findings(adapters: Adapters):
    error = RefusedError([Finding("dora", "error", "DoRA cannot be merged", target="t/a@1")])

    outcome = adapters("merge", "t/a", "t/b", "--into", "t/c", "--format", "json", merge=error)

    assert outcome.code == 1
    assert json.loads(outcome.out)["targets"] == {"t/a@1": "fail"}


def test_json_leaves_stdout_empty_on_other_errors(adapters: Adapters):
    assert adapters("show", "x", "--format", "json", show=NotFoundError("x")).out == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("show",),
        ("show", "a", "b"),
        ("show", "a", "--nonsense"),
        ("list", "--format", "yaml"),
        ("list", "--limit", "-1"),
        ("list", "--tag", "novalue"),
        ("list", "--tag", "k=1", "--tag", "k=2"),
        ("metric", "set", "a", "loss=low"),
        ("metric", "set", "a", "=1"),
        ("tag", "set", "a"),
        ("merge", "a", "b"),
        ("merge", "a", "b", "--into", "c", "--weights", "1,x"),
        ("merge", "a", "b", "--into", "c", "--rank", "0"),
        ("merge", "a", "b", "--into", "c", "--rank", "1.5"),
        ("check",),
        ("check", "a", "--fail-on", "info"),
        ("push", "./x", "n", "--relation", "cousin"),
        ("fsck", "--rebuilt"),
        ("merge", "a", "b", "--into", "c", "--energy", "most"),
        ("merge", "a", "b", "--rerun", "c"),
        ("merge", "--rerun", "c", "--rank", "4"),
        ("merge", "--rerun", "c", "--seed", "0"),
        ("merge", "--rerun", "c", "--lambda", "0"),
        ("merge", "--rerun", "c", "--weights-grid", ""),
    ],
    ids=" ".join,
)
def test_bad_usage_is_exit_2_with_the_help_to_read(adapters: Adapters, arguments: tuple[str, ...]):
    outcome = adapters(*arguments)

    assert outcome.code == 2
    assert outcome.out == ""
    first, second = outcome.err.splitlines()
    assert first.startswith("error: ")
    assert second.startswith("hint: adapters")
    assert second.endswith("--help")


def test_no_arguments_show_the_help_and_are_bad_usage(adapters: Adapters):
    outcome = adapters()

    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("Usage: adapters")


def test_a_wrong_format_in_the_environment_is_bad_usage(adapters: Adapters, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ADAPTERS_FORMAT", "yaml")

    assert adapters("list", list=[version()]).code == 2


@pytest.mark.parametrize(
    ("status", "fail_on", "code"),
    [
        ("pass", "error", 0),
        ("warn", "error", 0),
        ("warn", "warning", 1),
        ("inconclusive", "error", 3),
        ("inconclusive", "warning", 3),
        ("fail", "error", 1),
        ("fail", "warning", 1),
    ],
)
def test_check_turns_its_status_into_an_exit_code(adapters: Adapters, status: str, fail_on: str, code: int):
    report = CheckReport(status=status, targets={"t/s@1": status}, findings=())

    outcome = adapters("check", "t/s", "--fail-on", fail_on, check_request=report)

    assert outcome.code == code
    assert outcome.out == f"{status}  t/s@1\n"
    assert outcome.err == ""


@pytest.mark.parametrize(
    ("findings", "code"),
    [
        ((), 0),
        ((StoreFinding("orphan-blob", "info", "sha256:aa", "left"),), 0),
        ((StoreFinding("stray-file", "warning", "/x", "is no blob"),), 0),
        ((StoreFinding("number-gap", "error", "t/s", "rows"),), 1),
        ((StoreFinding("missing-blob", "error", "sha256:aa", "gone"),), 6),
        ((StoreFinding("wrong-bytes", "error", "sha256:aa", "x"), StoreFinding("number-gap", "error", "t", "y")), 6),
    ],
)
def test_fsck_tells_wrong_bytes_from_other_errors(adapters: Adapters, findings: tuple[StoreFinding, ...], code: int):
    result = FsckResult(status="x", versions=1, blobs=2, findings=findings)

    assert adapters("fsck", fsck=result).code == code


@pytest.mark.parametrize(("status", "code"), [("pass", 0), ("fail", 7)])
def test_doctor_exits_7_where_a_check_fails(adapters: Adapters, status: str, code: int):
    checks = ({"name": "fsync", "status": status, "message": "12 ms"},)

    outcome = adapters("doctor", doctor=RegistryStatus("sqlite:///x", "/blobs", "0001", checks=checks))

    assert outcome.code == code
    assert outcome.out.splitlines() == [
        "database  sqlite:///x",
        "store     /blobs",
        "revision  0001",
        "",
        "NAME   STATUS  MESSAGE",
        f"fsync  {status}    12 ms",
    ]


def test_a_refused_merge_in_json_has_one_target_a_parent(adapters: Adapters):
    finding = Finding("base-differs", "error", "t/a is for base x, t/b for y", where="base")
    refusal = FindingsError(("t/a@1", "t/b@2"), [finding])

    outcome = adapters("merge", "t/a", "t/b", "--into", "t/c", "--format", "json", merge=refusal)

    assert outcome.code == 1
    assert json.loads(outcome.out)["targets"] == {"t/a@1": "fail", "t/b@2": "fail"}
    assert outcome.err == "error: t/a@1, t/b@2: refused by base-differs\n"
