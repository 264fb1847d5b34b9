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


def test_a_password_of_a_file_is_in_no_output_of_any_verb(shell, work):
    """Also where the database is not reachable, and where the file is wrong beside it."""
    url = "postgresql://u:hunter2@127.0.0.1:1/x?password=hunter3"
    (work / "adapters.toml").write_text(f'[contexts.prod]\ndatabase_url = "{url}"\n')
    said = [shell(verb, "--context", "prod", *more) for verb in ("list", "doctor") for more in ((), ("--debug",))]
    (work / "adapters.toml").write_text(f'database_url = "{url}"\nhom = "x"\n')
    said.append(shell("list"))

    assert [code for code, _, _ in said[:1] + said[4:]] == [7, 2]
    assert "hunter" not in "".join(out + err for _, out, err in said)


def test_contexts_are_told_to_people_and_to_scripts(bare, work, monkeypatch):
    (work / "adapters.toml").write_text('[contexts.b]\nhome = "hb"\n[contexts.a]\nstore_url = "s3://s"\n')
    monkeypatch.delenv("ADAPTERS_HOME")
    monkeypatch.setenv("ADAPTERS_CONTEXT", "b")
    lines = bare.say("context", "list").splitlines()

    assert lines[0].split() == ["NAME", "CURRENT", "DATABASE", "STORE", "HOME", "FILE"]
    assert [line.split()[:2] for line in lines[1:]] == [["a", "-"], ["b", "yes"]]
    assert bare.say("context", "list", "--format", "quiet") == "a\nb\n"
    assert bare.say("context", "show", "--format", "quiet") == "b\n"
    assert f"home       {work}/hb" in bare.say("context", "show")


def test_a_context_of_the_user_that_the_project_hides_is_listed_once(bare, work, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "config/adapters").mkdir(parents=True)
    (tmp_path / "config/adapters/config.toml").write_text('[contexts.a]\nhome = "/u"\n[contexts.z]\nhome = "/z"\n')
    (work / "adapters.toml").write_text('[contexts.a]\nhome = "/p"\n')
    rows = json.loads(bare.say("context", "list", "--format", "json"))

    assert [(row["name"], row["home"]) for row in rows] == [("a", "/p"), ("z", "/z")]


def test_a_world_writable_file_stops_every_verb_that_needs_a_registry(shell, work):
    (work / "adapters.toml").write_text('namespace = "n"\n')
    (work / "adapters.toml").chmod(0o666)

    for verb in (["list"], ["push", "./two", "team/x"], ["context", "list"]):
        shell.refused(*verb, code=2, named="adapters.toml: can be written by everyone")


def test_a_home_of_the_environment_keeps_a_push_out_of_the_projects_registry(bare, work):
    """And says so on stderr, in `context show` and in `context list`."""
    (work / "adapters.toml").write_text('context = "prod"\n[contexts.prod]\ndatabase_url = "sqlite:///prod.db"\n')
    code, _, err = bare("push", "./one", "team/sql")
    shown = bare.say("context", "show").splitlines()
    (row,) = json.loads(bare.say("context", "list", "--format", "json"))

    assert code == 0
    assert f"ADAPTERS_HOME says which registry is meant: database_url of context prod in {work}/adapters.toml" in err
    assert (bare.home / "catalog.db").is_file() and not (work / "prod.db").exists()
    assert row["current"] is False
    assert f"database   sqlite:///{bare.home}/catalog.db (default)" in shown
    assert f"home       {bare.home} (ADAPTERS_HOME)" in shown


def test_doctor_warns_of_places_that_do_not_count(bare, work):
    (work / "adapters.toml").write_text('store_url = "s3://prod"\n')
    checks = json.loads(bare.say("doctor", "--format", "json"))["checks"]

    (told,) = [check for check in checks if check["name"] == "settings"]
    assert told["status"] == "warning"
    assert told["detail"].startswith("ADAPTERS_HOME; ADAPTERS_HOME says which registry is meant: store_url of ")
