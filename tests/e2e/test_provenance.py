"""Provenance through the command line: who says what, what is kept, what is refused."""

import json

import pytest

from registry.errors import UsageError
from registry.origins.sidecar import read_sidecar
from tests.registries import make_adapter, make_base

COMMIT, OTHER = "8c0f1d2e" * 5, "deadbeef" * 5


def shown(shell, ref="team/sql"):
    return json.loads(shell.say("show", ref, "--format", "json"))


def test_flags_are_kept_with_their_source(bare):
    bare.say(
        "push", "./one", "team/sql", "--licence", "Apache-2.0", "--git-commit", COMMIT, "--run-id", "r-7",
        "--data-digest", "dvc:3f2a"
    )  # fmt: skip
    found = shown(bare)

    assert [found[name] for name in ("licence", "git_commit", "run_id", "data_digest")] == [
        "apache-2.0",
        COMMIT,
        "r-7",
        "dvc:3f2a",
    ]
    assert found["sources"] == {
        "data_digest": "flag",
        "git_commit": "flag",
        "licence": "flag",
        "pushed_by": "ADAPTERS_ACTOR",
        "run_id": "flag",
    }


def test_a_list_and_a_log_tell_it_to_scripts(bare):
    """Also for deleted versions' neighbours; a move of an alias was made from nothing."""
    bare.say("push", "./one", "team/sql", "--licence", "mit", "--git-commit", COMMIT, "--run-id", "r-7",
        "--data-digest", "dvc:3f2a", "--alias", "prod")  # fmt: skip
    bare.say("push", "./two", "team/other")
    told = {"git_commit": COMMIT, "run_id": "r-7", "data_digest": "dvc:3f2a", "licence": "mit"}
    rows = json.loads(bare.say("list", "--format", "json"))
    push, move = json.loads(bare.say("log", "team/sql", "--format", "json"))
    weights = "./one/adapter_model.safetensors"
    found = {row["ref"]: row for row in (*rows, *json.loads(bare.say("which", weights, "--format", "json")))}

    assert [{name: row[name] for name in told} for row in rows] == [dict.fromkeys(told), told]
    assert [row["pushed_by"] for row in rows] == ["ann", "ann"]
    assert {name: push[name] for name in told} == told
    assert (push["actor"], [move[name] for name in told]) == ("ann", [None] * 4)
    assert {name: found["team/sql@1"][name] for name in told} == told


def test_people_see_who_said_it(bare):
    (bare.home.parent / "work/one/README.md").write_text("---\nlicense: mit\n---\n")
    bare.say("push", "./one", "team/sql", "--run-id", "r-7")
    lines = bare.say("show", "team/sql").splitlines()

    assert "licence  mit  (README.md)" in lines
    assert "run      r-7  (flag)" in lines


def test_each_source_gives_way_to_the_one_before_it(bare, work, monkeypatch):
    """Flag, sidecar, card, environment."""
    monkeypatch.setenv("GITHUB_SHA", OTHER)
    monkeypatch.setenv("WANDB_RUN_ID", "w-1")
    monkeypatch.setenv("GITHUB_RUN_ID", "99")
    (work / "one/README.md").write_text("---\nlicense: mit\n---\n")
    (work / "one/adapters.provenance.json").write_text(json.dumps({"git_commit": COMMIT, "metrics": {"loss": 0.5}}))
    bare.say("push", "./one", "team/a")
    bare.say("push", "./one", "team/b", "--licence", "gemma", "--metric", "loss=0.25", "--run-id", "mine")
    (work / "two/adapters.provenance.json").write_text(json.dumps({"licence": "llama3.1", "data_digest": None}))
    bare.say("push", "./two", "team/c")
    a, b, c = (shown(bare, f"team/{name}") for name in "abc")

    assert (a["git_commit"], a["run_id"], a["licence"], a["metrics"]) == (COMMIT, "w-1", "mit", {"loss": 0.5})
    assert a["sources"] == {
        "git_commit": "adapters.provenance.json",
        "licence": "README.md",
        "pushed_by": "ADAPTERS_ACTOR",
        "run_id": "WANDB_RUN_ID",
    }
    assert (b["licence"], b["run_id"], b["metrics"]) == ("gemma", "mine", {"loss": 0.25})
    assert (c["licence"], c["git_commit"], c["sources"]["git_commit"]) == ("llama3.1", OTHER, "GITHUB_SHA")


def test_the_sidecar_is_no_file_of_the_version(bare, work):
    (work / "one/adapters.provenance.json").write_text('{"run_id": "one"}')
    first = json.loads(bare.say("push", "./one", "team/sql", "--format", "json"))
    (work / "one/adapters.provenance.json").write_text('{"run_id": "two"}')
    second = json.loads(bare.say("push", "./one", "team/sql", "--format", "json"))

    assert first["left_out"] == ["adapters.provenance.json"]
    assert (second["ref"], second["created"]) == ("team/sql@1", False)
    assert [file["path"] for file in shown(bare)["files"]] == ["adapter_config.json", "adapter_model.safetensors"]
    assert shown(bare)["run_id"] == "one"


def test_known_content_keeps_what_it_was_pushed_with_and_says_so(bare):
    bare.say("push", "./one", "team/sql", "--message", "first", "--run-id", "r-1")
    code, _, err = bare("push", "./one", "team/sql", "--message", "second", "--run-id", "r-2", "--licence", "mit")

    assert code == 0
    assert "note: not applied: message, run_id; team/sql@1 keeps what it was first pushed with" in err.splitlines()
    found = shown(bare)
    assert (found["message"], found["run_id"], found["licence"]) == ("first", "r-1", "mit")
    assert (found["sources"]["run_id"], found["sources"]["licence"]) == ("flag", "flag")


def test_the_environment_of_a_later_push_fills_no_gap(bare, monkeypatch):
    bare.say("push", "./one", "team/sql")
    monkeypatch.setenv("GITHUB_SHA", COMMIT)
    _, _, err = bare("push", "./one", "team/sql")

    assert shown(bare)["git_commit"] is None
    assert "not applied" not in err


def test_the_same_again_is_no_loss(bare):
    bare.say("push", "./one", "team/sql", "--message", "m", "--base", "team/base", "--licence", "mit")
    _, _, err = bare("push", "./one", "team/sql", "--message", "m", "--base", "team/base", "--licence", "MIT")

    assert "not applied" not in err


def test_another_base_is_not_applied(bare):
    bare.say("push", "./one", "team/sql", "--base", "b1")
    _, _, err = bare("push", "./one", "team/sql", "--base", "b2")

    assert "not applied: base;" in err


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [
        ("--git-commit", "main", "expected 7 to 64 hexadecimal digits"),
        ("--run-id", "a b", "expected 1 to 256 printable characters without spaces"),
        ("--run-id", "x" * 257, "expected 1 to 256"),
        ("--data-digest", "\x1b[31m", "expected 1 to 256 printable"),
        ("--licence", "none", "expected an identifier such as apache-2.0"),
        ("--licence", "", "expected an identifier such as apache-2.0"),
        ("--licence", "mit\u202e", "expected an identifier"),
        ("--licence", "m" * 257, "at most 256 long"),
    ],
)
def test_a_value_that_cannot_be_one_is_refused_before_anything_is_written(shell, option, value, named):
    with shell.nothing_changed():
        shell.refused("push", "./two", "team/sql", option, value, code=2, named=named)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"{", "not readable as JSON"),
        (b"\xff\xfe", "not readable as JSON"),
        (b"[" * 100_000, "more than 65536 bytes"),
        (b"[" * 60_000, "not readable as JSON"),
        (b"[]", "expected an object"),
        (b'{"run": "1"}', "unknown key 'run'; known: git_commit, run_id, data_digest, licence, metrics"),
        (b'{"run_id": 7}', "run_id must be a text, found 7"),
        (b'{"git_commit": "HEAD"}', "adapters.provenance.json: git commit 'HEAD'"),
        (b'{"metrics": [1]}', "metrics must be an object of numbers"),
        (b'{"metrics": {"loss": true}}', "metric loss: expected a finite number, found True"),
        (b'{"metrics": {"loss": NaN}}', "metric loss: expected a finite number, found nan"),
        (b'{"metrics": {"a b": 1}}', "metric 'a b': expected 1 to 96"),
    ],
)
def test_a_wrong_sidecar_is_refused_before_anything_is_written(shell, work, content, named):
    (work / "two/adapters.provenance.json").write_bytes(content)

    with shell.nothing_changed():
        shell.refused("push", "./two", "team/sql", code=2, named=named)


def test_a_sidecar_that_is_a_link_is_not_followed(shell, work):
    (work / "two/adapters.provenance.json").symlink_to("/etc/hostname")

    with shell.nothing_changed():
        shell.refused("push", "./two", "team/sql", code=2, named="adapters.provenance.json: cannot be read")


@pytest.mark.parametrize(
    "words",
    [
        ("push", "./two", "team/sql"),
        ("alias", "set", "team/sql@1", "prod2"),
        ("tag", "set", "team/sql", "a=b"),
        ("metric", "set", "team/sql", "a=1"),
        ("alias", "rm", "team/sql", "prod"),
        ("gc",),
    ],
)
def test_an_actor_that_cannot_be_stored_is_refused_where_one_is_written(shell, monkeypatch, words):
    monkeypatch.setenv("ADAPTERS_ACTOR", "a\x1b[31m")

    with shell.nothing_changed():
        shell.refused(*words, code=2, named="ADAPTERS_ACTOR 'a\\x1b[31m': expected at most 256 printable characters")


@pytest.mark.parametrize(
    "words",
    [
        ("list",),
        ("show", "team/sql"),
        ("log", "team/sql"),
        ("pull", "team/sql", "--to", "./out"),
        ("verify", "team/sql"),
        ("fsck",),
        ("doctor",),
        ("check", "./two"),
        ("context", "show"),
        ("cache", "prune"),
    ],
)
def test_an_actor_that_cannot_be_stored_is_nothing_to_who_only_reads(shell, monkeypatch, words):
    monkeypatch.setenv("ADAPTERS_ACTOR", "a\x1b[31m")

    code, _, err = shell(*words)

    assert code == 0, err
    assert "ADAPTERS_ACTOR" not in err


def test_doctor_warns_of_an_actor_that_cannot_be_stored(shell, monkeypatch):
    monkeypatch.setenv("ADAPTERS_ACTOR", "a\x1b[31m")
    checks = {check["name"]: check for check in json.loads(shell.say("doctor", "--format", "json"))["checks"]}

    assert checks["settings"]["status"] == "warning"
    assert "ADAPTERS_ACTOR 'a\\x1b[31m': expected at most 256" in checks["settings"]["detail"]


def test_a_variable_that_is_no_commit_is_passed_over(bare, work, monkeypatch):
    monkeypatch.setenv("GITHUB_SHA", "not a commit")
    monkeypatch.setenv("CI_COMMIT_SHA", COMMIT)
    make_adapter(work / "three", 3)
    bare.say("push", "./three", "team/sql")

    assert shown(bare)["sources"]["git_commit"] == "CI_COMMIT_SHA"


class TestBasesLicence:
    """The terms of a base that lies at a path are read from its card."""

    @pytest.fixture
    def base(self, work):
        make_base(work / "base")
        (work / "base/README.md").write_text("---\nlicense: gemma\n---\n")

    def rules(self, said):
        return [finding["rule"] for finding in json.loads(said)["findings"] if finding["rule"].startswith("licence")]

    @pytest.mark.parametrize("place", ["./base", "./base/model.safetensors"])
    def test_lighter_terms_are_told_at_a_push(self, bare, base, place):
        said = bare.say("push", "./one", "team/sql", "--base", place, "--licence", "mit", "--format", "json")

        assert self.rules(said) == ["licence-of-base"]

    def test_the_same_terms_are_not(self, bare, base):
        said = bare.say("push", "./one", "team/sql", "--base", "./base", "--licence", "gemma", "--format", "json")

        assert self.rules(said) == []

    def test_and_at_a_check_of_a_folder_and_of_a_version(self, bare, base, work):
        bare.say("push", "./two", "team/sql", "--licence", "apache-2.0")
        (work / "one/README.md").write_text("---\nlicense: mit\n---\n")

        for target in ("./one", "team/sql"):
            said = bare.say("check", target, "--base", "./base", "--format", "json")
            assert self.rules(said) == ["licence-of-base"]

    def test_a_base_without_a_card_adds_nothing(self, bare, base, work):
        (work / "base/README.md").unlink()
        said = bare.say("check", "./one", "--base", "./base", "--format", "json")

        assert self.rules(said) == ["licence-missing"]


@pytest.mark.parametrize("metrics", ["[]", '""', "0", "false", '{"loss": NaN}'])
def test_metrics_of_a_sidecar_that_are_none_are_refused_by_the_files_name(tmp_path, metrics):
    (tmp_path / "adapters.provenance.json").write_text(f'{{"metrics": {metrics}}}')

    with pytest.raises(UsageError, match=r"adapters\.provenance\.json: metric"):
        read_sidecar(tmp_path)


def test_a_cards_model_index_gives_no_metrics(bare, work):
    """Its numbers may be those of whatever the card was copied from."""
    metric = "metrics: [{type: accuracy, value: 0.91}]"
    index = f"model-index: [{{name: x, results: [{{task: {{type: t}}, {metric}}}]}}]"
    (work / "one/README.md").write_text(f"---\nlicense: mit\n{index}\n---\n")
    bare.say("push", "./one", "team/sql")

    assert (shown(bare)["metrics"], shown(bare)["licence"]) == ({}, "mit")
