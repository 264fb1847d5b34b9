"""Contexts through the command line."""

import json


def test_a_push_goes_to_the_context_that_is_named(bare, work, monkeypatch):
    monkeypatch.delenv("ADAPTERS_HOME")
    (work / "adapters.toml").write_text('[contexts.a]\nhome = "ha"\n[contexts.b]\nhome = "hb"\n')
    bare.say("push", "./one", "team/sql", "--context", "a")
    monkeypatch.setenv("ADAPTERS_CONTEXT", "b")
    bare.say("push", "./two", "team/other")

    assert bare.say("list", "--context", "a", "--format", "quiet") == "team/sql@1\n"
    assert bare.say("list", "--format", "quiet") == "team/other@1\n"
    assert (work / "ha/catalog.db").is_file() and (work / "hb/catalog.db").is_file()


def test_list_and_show_tell_places_without_secrets(bare, work):
    (work / "adapters.toml").write_text(
        '[contexts.prod]\ndatabase_url = "postgresql://u:hunter2@db/x?password=hunter3"\nstore_url = "s3://b/p"\n'
    )
    code, out, err = bare("context", "list", "--format", "json")
    (row,) = json.loads(out)
    shown = json.loads(bare.say("context", "show", "--context", "prod", "--format", "json"))

    assert code == 0
    assert (row["name"], row["current"], row["database"], row["store"]) == (
        "prod",
        False,
        "postgresql://db/x",
        "s3://b/p",
    )
    assert (shown["context"], shown["database"], shown["store"]) == ("prod", "postgresql+psycopg://db/x", "s3://b/p")
    assert "warning: " in err and "holds a password" in err
    assert "hunter" not in out + err + json.dumps(shown)


def test_doctor_names_the_file_and_the_context(shell, work):
    (work / "adapters.toml").write_text(f'context = "here"\n[contexts.here]\nhome = "{shell.home}"\n')
    checks = json.loads(shell.say("doctor", "--format", "json"))["checks"]

    (told,) = [check for check in checks if check["name"] == "settings"]
    assert (told["status"], told["detail"]) == ("ok", f"context here of {work}/adapters.toml")


def test_defaults_of_the_file_reach_a_push(bare, work):
    (work / "adapters.toml").write_text('[push]\ntags = { team = "nlp" }\n[provenance]\nlicence = "apache-2.0"\n')
    bare.say("push", "./one", "team/sql", "--tag", "a=b")
    shown = json.loads(bare.say("show", "team/sql", "--format", "json"))

    assert (shown["tags"], shown["licence"]) == ({"a": "b", "team": "nlp"}, "apache-2.0")
    assert shown["sources"]["licence"] == "adapters.toml"


def test_an_unknown_context_is_bad_usage(shell):
    shell.refused("list", "--context", "nope", code=2, named="context 'nope'")
