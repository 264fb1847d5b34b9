"""Named contexts and the files that hold them: which registry is meant, and what a file may not say."""

import os
from pathlib import Path

import pytest

from registry.cli.verbs.context import in_force
from registry.errors import UsageError
from registry.project import has_password
from registry.settings import load_settings

TWO = """
context = "dev"
namespace = "shared"
[contexts.dev]
home = "dev-home"
[contexts.prod]
database_url = "postgresql://db/adapters"
store_url = "s3://prod"
namespace = "prod"
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "project").mkdir()
    return tmp_path / "project"


def load(folder, text=None, environ=None, **flags):
    if text is not None:
        (folder / "adapters.toml").write_text(text)
    return load_settings(
        environ={"XDG_CONFIG_HOME": str(folder.parent / "config"), **(environ or {})}, folder=folder, **flags
    )


def user(folder, text):
    place = folder.parent / "config/adapters"
    place.mkdir(parents=True, exist_ok=True)
    (place / "config.toml").write_text(text)


class TestChoice:
    def test_the_files_own_choice(self, folder):
        settings = load(folder, TWO)

        assert (settings.chosen.name, settings.home, settings.namespace) == ("dev", folder / "dev-home", "shared")
        assert settings.chosen.source == str(folder / "adapters.toml")

    def test_a_flag_beats_the_environment_which_beats_the_file(self, folder):
        environ = {"ADAPTERS_CONTEXT": "prod"}

        assert load(folder, TWO, environ).chosen.name == "prod"
        assert load(folder, TWO, environ, context="dev").chosen.name == "dev"

    def test_a_context_brings_database_store_and_namespace(self, folder):
        settings = load(folder, TWO, context="prod")

        assert settings.database_url == "postgresql+psycopg://db/adapters"
        assert (settings.store_url, settings.namespace) == ("s3://prod", "prod")

    def test_an_unknown_context_is_refused_with_those_that_are_there(self, folder):
        with pytest.raises(UsageError, match=r"context 'test': not in .*adapters.toml; known: dev, prod"):
            load(folder, TWO, context="test")
        with pytest.raises(UsageError, match="not in any adapters"):
            load(folder.parent, context="test")

    def test_a_context_by_flag_beats_the_places_of_the_environment(self, folder):
        environ = {"ADAPTERS_HOME": "/e", "ADAPTERS_DATABASE_URL": "sqlite:////e.db", "ADAPTERS_STORE_URL": "s3://e"}
        settings = load(folder, TWO, {**environ, "ADAPTERS_NAMESPACE": "e"}, context="prod")

        assert settings.database_url == "postgresql+psycopg://db/adapters"
        assert (settings.store_url, settings.namespace) == ("s3://prod", "prod")
        assert settings.home != Path("/e")

    def test_a_flag_for_one_place_beats_the_context(self, folder):
        assert load(folder, TWO, context="prod", store_url="s3://mine").store_url == "s3://mine"

    def test_the_environments_places_beat_a_context_that_no_flag_names(self, folder):
        environ = {"ADAPTERS_STORE_URL": "s3://e", "ADAPTERS_CONTEXT": "prod"}

        assert load(folder, TWO, environ).store_url == "s3://e"


class TestTogether:
    def test_a_context_without_a_store_does_not_get_that_of_the_file(self, folder):
        settings = load(
            folder, 'store_url = "s3://dev"\n[contexts.prod]\ndatabase_url = "sqlite:////p.db"', context="prod"
        )

        assert (settings.database_url, settings.store_url) == ("sqlite:////p.db", None)

    def test_the_users_places_do_not_complete_the_projects(self, folder):
        user(folder, 'store_url = "s3://mine"\nnamespace = "me"')
        settings = load(folder, 'database_url = "sqlite:////p.db"')

        assert (settings.database_url, settings.store_url, settings.namespace) == ("sqlite:////p.db", None, "me")

    def test_without_a_projects_places_the_users_hold(self, folder):
        user(folder, 'context = "mine"\n[contexts.mine]\nstore_url = "s3://mine"')

        assert load(folder, 'namespace = "p"').store_url == "s3://mine"

    def test_a_project_may_name_a_context_of_the_user(self, folder):
        user(folder, '[contexts.team]\nstore_url = "s3://team"')

        assert load(folder, 'context = "team"').store_url == "s3://team"

    def test_a_context_of_the_project_hides_the_users_of_that_name(self, folder):
        user(folder, '[contexts.prod]\nstore_url = "s3://user"')

        assert load(folder, TWO, context="prod").store_url == "s3://prod"

    @pytest.mark.parametrize("said", [("home",), ("database_url",), ("store_url",), ("home", "store_url")])
    def test_one_place_of_the_upper_layer_is_enough_to_leave_out_all_of_the_lower(self, folder, said):
        upper = {"home": str(folder / "up"), "database_url": "sqlite:////up.db", "store_url": "s3://up"}
        user(folder, 'home = "/low"\ndatabase_url = "sqlite:////low.db"\nstore_url = "s3://low"')
        settings = load(folder, "".join(f'{key} = "{upper[key]}"\n' for key in said))
        found = {"home": str(settings.home), "database_url": settings.database_url, "store_url": settings.store_url}

        assert {key: found[key] for key in said} == {key: upper[key] for key in said}
        assert not any("low" in str(value) for value in found.values())

    def test_a_context_of_the_file_hides_its_top_levels_places(self, folder):
        settings = load(folder, 'context = "c"\nhome = "top"\nstore_url = "s3://top"\n[contexts.c]\nhome = "c-home"')

        assert (settings.home, settings.store_url) == (folder / "c-home", None)

    def test_a_context_without_places_means_the_defaults_and_not_another_layers(self, folder):
        user(folder, 'store_url = "s3://mine"')
        settings = load(folder, '[contexts.plain]\nnamespace = "n"', context="plain")

        assert (settings.store_url, settings.database_url, settings.namespace) == (None, None, "n")

    def test_cache_and_namespace_are_taken_one_by_one(self, folder):
        user(folder, 'cache = "/c"\nnamespace = "low"\nformat = "json"')
        settings = load(folder, 'namespace = "up"\nstore_url = "s3://up"')

        assert (settings.cache, settings.namespace, settings.output) == (Path("/c"), "up", "json")

    def test_an_empty_place_says_nothing(self, folder):
        user(folder, 'store_url = "s3://mine"')

        assert load(folder, 'store_url = ""').store_url == "s3://mine"


class TestFiles:
    def test_a_folder_of_that_name_is_passed_over(self, folder):
        (folder / "adapters.toml").mkdir()
        (folder.parent / "adapters.toml").write_text('namespace = "above"')

        assert load(folder).namespace == "above"

    def test_the_users_file_is_below_the_home_where_no_variable_says_where(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        (tmp_path / ".config/adapters").mkdir(parents=True)
        (tmp_path / ".config/adapters/config.toml").write_text('namespace = "me"')

        assert load_settings(environ={}, folder=tmp_path).namespace == "me"

    def test_paths_start_at_the_file_that_says_them(self, folder, monkeypatch):
        monkeypatch.setenv("HOME", "/people/ann")
        user(folder, 'cache = "~/c"')
        settings = load(folder, '[contexts.a]\nhome = "x/y"', context="a")

        assert (settings.home, settings.cache) == (folder / "x/y", Path("/people/ann/c"))

    def test_a_tag_or_a_claim_named_home_is_no_path(self, folder):
        assert load(folder, '[push.tags]\nhome = "here"').push.tags == {"home": "here"}

    def test_the_projects_provenance_counts_before_the_users(self, folder):
        user(folder, '[provenance]\nlicence = "gemma"\nrun_id = "mine"')
        found = load(folder, '[provenance]\nlicence = "mit"').surroundings

        assert (found["licence"].value, found["licence"].source) == ("mit", "adapters.toml")
        assert (found["run_id"].value, found["run_id"].source) == ("mine", "config.toml")

    def test_the_projects_push_table_is_taken_whole(self, folder):
        user(folder, '[push]\nbase = "b"\ntags = { a = "1" }')

        assert (load(folder, '[push]\ntags = { b = "2" }').push.base, load(folder).push.tags) == (None, {"b": "2"})

    def test_deep_nesting_is_refused_and_named(self, folder):
        with pytest.raises(UsageError, match=r"adapters\.toml: not readable as TOML"):
            load(folder, "x = " + "[" * 100_000)


class TestDefaults:
    def test_provenance_of_the_file_comes_after_the_environment(self, folder):
        text = '[provenance]\nlicence = "MIT"\ngit_commit = "8c0f1d2"\n'
        found = load(folder, text, {"GITHUB_SHA": "deadbeef"}).surroundings

        assert (found["licence"].value, found["licence"].source) == ("mit", "adapters.toml")
        assert (found["git_commit"].value, found["git_commit"].source) == ("deadbeef", "GITHUB_SHA")

    def test_push_defaults(self, folder):
        push = load(folder, '[push]\nbase = "b"\ninclude = ["*.txt"]\ntags = { team = "nlp" }').push

        assert (push.base, push.include, push.tags) == ("b", ("*.txt",), {"team": "nlp"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[contexts.a]\nhom = 'x'",
            r"unknown key 'contexts.a.hom'; known: cache, database_url, home, namespace, store_url",
        ),
        ("[contexts.a]\nhome = 3", r"'contexts.a.home' must be a string, found 3"),
        ("contexts = 3", "'contexts' must be a table"),
        ("[contexts]\na = 3", "contexts.a must be a table"),
        ("[provenance]\npushed_by = 'x'", "unknown key 'provenance.pushed_by'"),
        ("[provenance]\ngit_commit = 'main'", "adapters.toml: git commit 'main'"),
        ("[push]\nallow = ['value-nonfinite']", "unknown key 'push.allow'; known: base, include, tags"),
        ("[push]\naliases = ['prod']", "unknown key 'push.aliases'"),
        ("[push]\ninclude = 'x'", "'push.include' must be a list of strings"),
        ("[push.tags]\na = 1", "'push.tags.a' must be a string, found 1"),
        ("trusted = 'x'", "'trusted' must be a list of strings"),
    ],
)
def test_what_a_file_may_not_say(folder, text, message):
    with pytest.raises(UsageError, match=message):
        load(folder, text)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of two users")


class TestOwner:
    def test_a_file_of_another_user_is_refused(self, folder, monkeypatch):
        (folder / "adapters.toml").write_text('store_url = "s3://evil"')
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
        if (folder / "adapters.toml").stat().st_uid == 0:
            os.chown(folder / "adapters.toml", 4242, -1)

        with pytest.raises(UsageError, match="belongs to user id "):
            load(folder)

    @needs_root
    def test_a_link_of_another_user_to_a_file_of_ones_own_is_refused(self, folder):
        """What is relative in the file would lead into the other's folder."""
        (folder.parent / "mine.toml").write_text('home = "registry"')
        (folder / "adapters.toml").symlink_to(folder.parent / "mine.toml")
        assert load(folder).home == folder / "registry"
        os.chown(folder / "adapters.toml", 4242, -1, follow_symlinks=False)

        with pytest.raises(UsageError, match="belongs to user id 4242"):
            load(folder)

    @needs_root
    def test_a_link_to_a_file_of_another_user_is_refused(self, folder):
        (folder.parent / "theirs.toml").write_text('store_url = "s3://evil"')
        os.chown(folder.parent / "theirs.toml", 4242, -1)
        (folder / "adapters.toml").symlink_to(folder.parent / "theirs.toml")

        with pytest.raises(UsageError, match="belongs to user id 4242"):
            load(folder)

    @needs_root
    def test_a_file_of_the_administrator_is_taken(self, folder, monkeypatch):
        (folder / "adapters.toml").write_text('namespace = "site"')
        monkeypatch.setattr(os, "geteuid", lambda: 12345)

        assert load(folder).namespace == "site"

    def test_a_file_cannot_make_itself_trusted(self, folder):
        (folder / "adapters.toml").write_text(f'trusted = ["{folder}"]\nstore_url = "s3://evil"')
        (folder / "adapters.toml").chmod(0o666)

        with pytest.raises(UsageError, match="can be written by everyone"):
            load(folder)

    def test_trust_is_of_one_folder_and_not_of_those_below(self, folder):
        (folder / "sub").mkdir()
        for place in (folder, folder / "sub"):
            (place / "adapters.toml").write_text(f'namespace = "{place.name}"')
            (place / "adapters.toml").chmod(0o666)
        user(folder, f'trusted = ["{folder}"]')

        assert load(folder).namespace == "project"
        with pytest.raises(UsageError, match=r"sub/adapters\.toml: can be written by everyone"):
            load(folder / "sub", environ={"XDG_CONFIG_HOME": str(folder.parent / "config")})

    @pytest.mark.parametrize("spelling", ["../../project", "{folder}/../project", "{folder}/"])
    def test_a_trusted_folder_is_known_by_any_spelling(self, folder, spelling):
        (folder / "adapters.toml").write_text('namespace = "p"')
        (folder / "adapters.toml").chmod(0o666)
        user(folder, f'trusted = ["{spelling.format(folder=folder)}"]')

        assert load(folder).namespace == "p"

    def test_the_refusal_stops_the_search_and_names_no_secret(self, folder):
        """A file further up does not stand in for one that is refused."""
        (folder.parent / "adapters.toml").write_text('namespace = "above"')
        (folder / "adapters.toml").write_text('database_url = "postgresql://u:hunter2@h/db"')
        (folder / "adapters.toml").chmod(0o602)

        with pytest.raises(UsageError, match=r"project/adapters\.toml: can be written by everyone") as caught:
            load(folder)
        assert "hunter2" not in str(caught.value)

    def test_a_file_that_everyone_may_write_is_refused_unless_its_folder_is_trusted(self, folder):
        (folder / "adapters.toml").write_text('store_url = "s3://team"')
        (folder / "adapters.toml").chmod(0o666)

        with pytest.raises(UsageError, match="can be written by everyone") as caught:
            load(folder)
        assert f'trusted = ["{folder}"]' in (caught.value.hint or "")
        user(folder, f'trusted = ["{folder}"]')
        assert load(folder).store_url == "s3://team"


class TestPasswords:
    @pytest.mark.parametrize("url", ["postgresql://u:hunter2@h/db", "postgresql://h/db?password=hunter2"])
    def test_a_password_is_warned_about_and_not_said(self, folder, url):
        (warning,) = load(folder, f'[contexts.prod]\ndatabase_url = "{url}"').files[0].warnings

        assert "the database_url of context prod holds a password" in warning
        assert "hunter2" not in warning

    def test_one_at_the_top_of_the_users_file_is_warned_about_too(self, folder):
        user(folder, 'database_url = "postgresql://u:hunter2@h/db"')
        ((warning,),) = (file.warnings for file in load(folder).files)

        assert "config.toml: the database_url holds a password" in warning
        assert "PGPASSFILE" in warning and "hunter2" not in warning

    @pytest.mark.parametrize(
        "url", ["postgresql://h/db", "postgresql://u@h/db", "sqlite:////p.db", "postgresql://[", ""]
    )
    def test_what_holds_none(self, url):
        assert not has_password(url)

    def test_a_url_without_one_is_no_warning(self, folder):
        assert load(folder, TWO).files[0].warnings == ()

    @pytest.mark.parametrize("password", ["hunt/er2", "hunt?er2", "hu@nt/er2", "hunt:er2"])
    def test_one_with_signs_of_an_address_in_it_is_found_too(self, folder, password):
        (warning,) = load(folder, f'database_url = "postgresql://u:{password}@h/db"').files[0].warnings

        assert "holds a password" in warning
        assert "er2" not in warning


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:hunt/er2@h:5432/db?sslmode=require", "postgresql://h:5432/db"),
        ("postgresql://u:hu@nt/er2@h/db", "postgresql://h/db"),
        ("postgresql://u:hunt?er2@h/db", "postgresql://…"),
        ("postgresql://h:5432/db?user=a@b&password=hunter2", "postgresql://…"),
        ("s3://AKIA:hunt/er2@bucket/p", "s3://bucket/p"),
        ("s3://bucket/team@home?endpoint=http://h", "s3://bucket/team@home"),
        ("sqlite:////srv/a@b?/catalog.db", "sqlite:////srv/a@b?/catalog.db"),
    ],
)
def test_places_are_shown_without_secrets(folder, url, shown):
    key = "store_url" if url.startswith("s3:") else "database_url"

    found = in_force(load(folder, f'{key} = "{url}"'))

    assert found[key.removesuffix("_url")].replace("+psycopg", "") == shown


def test_a_link_that_is_exchanged_after_it_was_looked_at_is_refused(folder, monkeypatch):
    """The owner that counts is that of the file that is read."""
    (folder / "mine.toml").write_text('store_url = "s3://mine"')
    (folder / "theirs.toml").write_text('store_url = "s3://theirs"')
    (folder / "theirs.toml").chmod(0o666)
    (folder / "adapters.toml").symlink_to("mine.toml")
    opened = Path.open

    def exchange(path, *arguments, **options):
        (folder / "adapters.toml").unlink()
        (folder / "adapters.toml").symlink_to("theirs.toml")
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", exchange)
    with pytest.raises(UsageError, match="can be written by everyone"):
        load(folder)


def test_a_current_folder_that_is_gone_is_named(folder, monkeypatch):
    monkeypatch.chdir(folder)
    folder.rmdir()

    with pytest.raises(UsageError, match="the current folder is gone"):
        load_settings(environ={})


@pytest.mark.parametrize(
    ("text", "environ", "flags", "hint"),
    [
        (TWO, {}, {"context": "nope"}, "adapters context list"),
        (TWO, {"ADAPTERS_CONTEXT": "nope"}, {}, "unset ADAPTERS_CONTEXT"),
        ('context = "nope"', {}, {}, "correct `context` in "),
    ],
)
def test_an_unknown_context_has_a_hint_that_works(folder, text, environ, flags, hint):
    """`context list` reads the settings too, so it helps only where a flag was wrong."""
    with pytest.raises(UsageError, match="'nope'") as caught:
        load(folder, text, environ, **flags)

    assert (caught.value.hint or "").startswith(hint)


WHOLE = 'home = "h"\ndatabase_url = "postgresql://db/prod"\nstore_url = "s3://prod"\nnamespace = "n"\ncache = "c"\n'


class TestHomeOverrules:
    """A home is a whole registry: one that is given leaves out database and store of the files, which are others'."""

    @pytest.mark.parametrize(("environ", "flags"), [({"ADAPTERS_HOME": "/e"}, {}), ({}, {"home": "/e"})])
    def test_database_and_store_of_the_file_do_not_count(self, folder, environ, flags):
        settings = load(folder, WHOLE, environ, **flags)

        assert (settings.home, settings.database_url, settings.store_url) == (Path("/e"), None, None)
        assert (settings.namespace, settings.cache) == ("n", folder / "c")

    def test_a_note_says_what_does_not_count(self, folder):
        (note,) = load(folder, WHOLE, {"ADAPTERS_HOME": "/e"}).notes

        assert note == (
            "ADAPTERS_HOME says which registry is meant: home, database_url, store_url of"
            f" {folder}/adapters.toml does not count"
        )

    def test_a_file_that_names_a_home_alone_is_overruled_without_a_note(self, folder):
        assert load(folder, 'home = "h"', {"ADAPTERS_HOME": "/e"}).notes == ()

    def test_the_users_file_is_overruled_too(self, folder):
        user(folder, WHOLE)

        assert load(folder, environ={"ADAPTERS_HOME": "/e"}).store_url is None

    def test_the_files_own_home_overrules_nothing(self, folder):
        settings = load(folder, WHOLE, {"ADAPTERS_HOME": str(folder / "h")})

        assert (settings.store_url, settings.notes) == ("s3://prod", ())

    def test_a_context_of_the_environment_or_the_file_is_not_in_force_below_another_home(self, folder):
        by_variable = load(folder, TWO, {"ADAPTERS_HOME": "/e", "ADAPTERS_CONTEXT": "prod"})
        by_file = load(folder, TWO, home="/e")

        assert (by_variable.chosen.name, by_variable.database_url, by_variable.home) == (None, None, Path("/e"))
        assert by_variable.notes[0].startswith("ADAPTERS_HOME says which registry is meant: database_url, store_url of")
        assert f"context dev in {folder}/adapters.toml" in by_file.notes[0]

    def test_a_context_by_flag_keeps_its_database_below_a_home_by_flag(self, folder):
        settings = load(folder, TWO, home="/e", context="prod")

        assert (settings.chosen.name, settings.home, settings.store_url) == ("prod", Path("/e"), "s3://prod")

    def test_a_database_of_the_environment_stays_below_a_home(self, folder):
        environ = {"ADAPTERS_HOME": "/e", "ADAPTERS_DATABASE_URL": "postgresql://db/mine"}

        assert load(folder, WHOLE, environ).database_url == "postgresql+psycopg://db/mine"


class TestSources:
    @pytest.mark.parametrize(
        ("environ", "flags", "source", "sources"),
        [
            ({}, {}, "FILE", ("FILE", "FILE", "FILE")),
            ({"ADAPTERS_HOME": "/e"}, {}, "ADAPTERS_HOME", ("ADAPTERS_HOME", "default", "default")),
            ({"ADAPTERS_HOME": "/e"}, {"home": "/f"}, "--home", ("--home", "default", "default")),
            ({"ADAPTERS_STORE_URL": "s3://e"}, {}, "FILE", ("FILE", "FILE", "ADAPTERS_STORE_URL")),
            ({}, {"database_url": "sqlite:////f.db"}, "FILE", ("FILE", "--database-url", "FILE")),
        ],
    )
    def test_each_place_is_shown_with_what_says_it(self, folder, environ, flags, source, sources):
        found = in_force(load(folder, WHOLE, environ, **flags))
        file = str(folder / "adapters.toml")

        assert found["source"] == source.replace("FILE", file)
        assert tuple(found["sources"].values()) == tuple(one.replace("FILE", file) for one in sources)
        assert list(found["sources"]) == ["home", "database", "store"]

    def test_a_context_by_flag_says_its_places_against_the_environment(self, folder):
        found = in_force(load(folder, TWO, {"ADAPTERS_HOME": "/e", "ADAPTERS_STORE_URL": "s3://e"}, context="prod"))
        file = str(folder / "adapters.toml")

        assert (found["context"], found["source"]) == ("prod", file)
        assert found["sources"] == {"home": "default", "database": file, "store": file}

    def test_without_files_the_defaults_say_it(self, folder):
        found = in_force(load(folder))

        assert (found["source"], set(found["sources"].values())) == (None, {"default"})
