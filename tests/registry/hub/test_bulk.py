"""`adapters import hf://org/*` against a local Hub."""

from __future__ import annotations

import json

import pytest

from registry.hub.account import local_name
from registry.hub.place import parse_place
from registry.hub.results import HubImportResult, ImportedRepo
from tests.registries import make_adapter


@pytest.fixture
def account(hub, adapter, tmp_path):
    """An account with three adapters, one that only has a pickle, one that the rules refuse, and one base model."""
    for seed, name in enumerate(["SQL-lora", "chat", "code"]):
        folder = make_adapter(tmp_path / name, seed)
        hub.add(f"org/{name}", {path.name: path.read_bytes() for path in folder.iterdir()})
    hub.add("org/pickled", {"adapter_config.json": adapter["adapter_config.json"], "adapter_model.bin": b"\x80"})
    hub.add("org/base", {"config.json": b"{}", "model.safetensors": b""})
    return hub


def imported(shell, *more, code=0, source="hf://org/*"):
    found, out, err = shell("import", source, "--format", "json", *more)
    assert found == code, err
    return json.loads(out)


def rows(report):
    return [(repo["source"].partition("@")[0], repo["status"], repo["ref"]) for repo in report["repos"]]


def test_each_adapter_becomes_a_version_and_the_rest_is_told(account, shell):
    report = imported(shell, code=2)

    assert rows(report) == [
        ("hf://org/SQL-lora", "created", "org/sql-lora@1"),
        ("hf://org/chat", "created", "org/chat@1"),
        ("hf://org/code", "created", "org/code@1"),
        ("hf://org/pickled", "failed", None),
    ]
    assert report["repos"][3]["why"] == "adapter_model.bin is not taken, only safetensors is"
    assert "adapters convert ./pickled" in report["repos"][3]["hint"]
    assert report["others"] == 1


def test_run_again_it_downloads_nothing_that_is_here(account, shell):
    imported(shell, code=2)
    account.seen.clear()

    report = imported(shell, code=2)

    assert [status for _, status, _ in rows(report)] == ["unchanged"] * 3 + ["failed"]
    assert account.asked("resolve") == 0
    assert account.asked("tree") == 1  # of the one that failed


def test_a_new_commit_is_a_new_version(account, shell, tmp_path):
    imported(shell, "--match", "chat")
    folder = make_adapter(tmp_path / "newer", 9)
    account.repos["org/chat"].commit({path.name: path.read_bytes() for path in folder.iterdir()})

    assert rows(imported(shell, "--match", "chat")) == [("hf://org/chat", "created", "org/chat@2")]


def test_refused_by_findings_alone_exits_1(account, shell, tmp_path):
    folder = make_adapter(tmp_path / "nan", 3)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    config = json.loads(files["adapter_config.json"]) | {"r": 64}
    account.add("org/wrong", {**files, "adapter_config.json": json.dumps(config).encode()})

    report = imported(shell, "--match", "[cw]*", code=1)

    assert [status for _, status, _ in rows(report)] == ["created", "created", "refused"]
    assert report["repos"][2]["findings"][0]["severity"] == "error"


@pytest.mark.parametrize(("codes", "whole"), [([], 0), ([0, 1, 0], 1), ([1, 7, 4], 7), ([4, 1], 4), ([0], 0)])
def test_findings_count_only_where_nothing_else_failed(codes, whole):
    repos = tuple(ImportedRepo("hf://o/n", None, "x", exit_code=code) for code in codes)

    assert HubImportResult("hf://o/*", repos).exit_code == whole


def test_a_failing_repo_does_not_stop_the_others(account, shell):
    account.fault("GET /api/models/org/SQL-lora", lambda handler: handler.fail(404, "gone", "RepoNotFound"), times=9)

    report = imported(shell, "--match", "[Sc]*", code=4)

    assert [status for _, status, _ in rows(report)] == ["failed", "created", "created"]


def test_limit_counts_what_is_not_here_yet(account, shell):
    first = imported(shell, "--match", "[Sc]*", "--limit", "2")
    second = imported(shell, "--match", "[Sc]*", "--limit", "2")

    assert [status for _, status, _ in rows(first)] == ["created", "created"]
    assert first["notes"] == ["1 more: run the command again"]
    assert [status for _, status, _ in rows(second)] == ["unchanged", "unchanged", "created"]


def test_into_names_the_namespace_and_the_glob_the_models(account, shell):
    report = imported(shell, "--into", "team", source="hf://org/SQL-*")

    assert rows(report) == [("hf://org/SQL-lora", "created", "team/sql-lora@1")]


def test_a_dry_run_writes_nothing(account, shell):
    with shell.nothing_changed():
        report = imported(shell, "--match", "c*", "--dry-run")

    assert rows(report) == [
        ("hf://org/chat", "would import", "org/chat"),
        ("hf://org/code", "would import", "org/code"),
    ]


def test_a_repo_of_many_adapters_gives_one_version_each(hub, shell, tmp_path):
    files = {}
    for seed, place in enumerate(["a", "b/deep", "a/checkpoint-7"]):
        folder = make_adapter(tmp_path / str(seed), seed)
        files |= {f"{place}/{path.name}": path.read_bytes() for path in folder.iterdir()}
    hub.add("org/many", files)

    assert rows(imported(shell)) == [
        ("hf://org/many/a", "created", "org/many-a@1"),
        ("hf://org/many/b/deep", "created", "org/many-b-deep@1"),
    ]


def test_two_repos_of_one_name_here_are_told_apart(hub, shell, adapter):
    hub.add("org/_sql", adapter)
    hub.add("org/sql", adapter)

    report = imported(shell, code=5)

    assert rows(report) == [("hf://org/_sql", "created", "org/sql@1"), ("hf://org/sql", "failed", None)]
    assert "hf://org/_sql" in report["repos"][1]["why"]


def test_pages_are_followed(account, shell):
    account.page = 2

    assert len(imported(shell, "--dry-run")["repos"]) == 4


def test_an_account_without_models_is_not_found(hub, shell):
    shell.refused("import", "hf://nobody/*", code=4, named="hf://nobody/*")


def test_people_get_a_table_and_a_count(account, shell):
    code, out, _ = shell("import", "hf://org/*")

    lines = out.splitlines()
    assert code == 2
    assert lines[0].split() == ["REF", "FROM", "WHY"]
    assert lines[1].split()[:3] == [
        "created",
        "org/sql-lora@1",
        f"hf://org/SQL-lora@{account.repos['org/SQL-lora'].refs['main']}",
    ]
    assert lines[-1] == "3 created, 1 failed, 1 without an adapter"


@pytest.mark.parametrize(
    "line", [["./x.tar", "--into", "a"], ["./x.tar", "--limit", "1"], ["hf://o/*", "--map", "a=b"]]
)
def test_options_of_the_other_source_are_refused(bare, line):
    bare.refused("import", *line, code=2)


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("hf://Org/SQL-Lora", "org/sql-lora"),
        ("hf://org/_x", "org/x"),
        ("hf://org/con", "org/adapter-con"),
        ("hf://org/___", "org/adapter"),
        ("hf://org/a/Über fein/b", "org/a--ber-fein-b"),
        (f"hf://org/{'n' * 96}/folder", f"org/{'n' * 96}"),
    ],
)
def test_names_are_the_nearest_that_the_grammar_allows(place, name):
    assert str(local_name(parse_place(place))) == name


def test_an_account_without_end_is_left(account, shell, monkeypatch):
    monkeypatch.setattr("registry.hub.account._MOST_MODELS", 4)
    account.page = 2

    shell.refused("import", "hf://org/*", code=7, named="hf://org/*: more than 4 models")
    assert account.asked("GET /api/models$") == 3


def test_a_model_that_is_listed_on_two_pages_is_taken_once(account, shell):
    """A list that changes while it is read shows one twice."""
    again = account.repos["org/chat"]
    facts = {"id": "org/chat", "sha": again.refs["main"], "siblings": [{"rfilename": "adapter_config.json"}]}
    account.fault("GET /api/models$", lambda handler: handler.say([facts, facts]))

    assert [one["ref"] for one in imported(shell)["repos"]] == ["org/chat@1"]
