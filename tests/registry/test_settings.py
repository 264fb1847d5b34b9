"""Flag, environment, adapters.toml, default: in this order."""

from pathlib import Path

import pytest

from registry.errors import UsageError
from registry.settings import Settings, load_settings, one_blas_thread


def load(folder, environ=None, **flags):
    return load_settings(environ=environ or {}, folder=folder, **flags)


class TestDefaults:
    def test_home_is_the_users_data_folder(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", "/home/ada")

        assert load(tmp_path).home == Path("/home/ada/.local/share/adapters")

    def test_home_follows_xdg(self, tmp_path):
        assert load(tmp_path, {"XDG_DATA_HOME": "/data"}).home == Path("/data/adapters")

    def test_the_rest(self, tmp_path):
        settings = load(tmp_path)

        assert (settings.namespace, settings.output, settings.database_url, settings.store_url) == (
            "local",
            "human",
            None,
            None,
        )

    def test_the_places_in_a_home(self):
        settings = Settings(home=Path("/srv/a"))

        assert settings.catalog_file == Path("/srv/a/catalog.db")
        assert settings.blobs == Path("/srv/a/blobs")
        assert settings.pulled == Path("/srv/a/pulled")
        assert settings.staging == Path("/srv/a/staging")
        assert settings.resolved_database_url == "sqlite:////srv/a/catalog.db"


class TestPrecedence:
    def test_a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default(self, tmp_path):
        (tmp_path / "adapters.toml").write_text('home = "/file"\nformat = "quiet"\nnamespace = "file"\n')
        environ = {"ADAPTERS_HOME": "/environment", "ADAPTERS_FORMAT": "json"}

        assert load(tmp_path, environ, home="/flag", output="human").home == Path("/flag")
        assert load(tmp_path, environ, output="human").output == "human"
        assert load(tmp_path, environ).home == Path("/environment")
        assert load(tmp_path, environ).output == "json"
        assert load(tmp_path).home == Path("/file")
        assert load(tmp_path).output == "quiet"
        assert load(tmp_path).namespace == "file"
        assert load(tmp_path, {"ADAPTERS_NAMESPACE": "team"}).namespace == "team"

    def test_an_empty_variable_counts_as_unset(self, tmp_path):
        assert load(tmp_path, {"ADAPTERS_HOME": "", "XDG_DATA_HOME": "/data"}).home == Path("/data/adapters")

    def test_urls_come_from_everywhere_too(self, tmp_path):
        (tmp_path / "adapters.toml").write_text('database_url = "sqlite:////a.db"\nstore_url = "s3://a"\n')

        assert load(tmp_path).database_url == "sqlite:////a.db"
        assert load(tmp_path).store_url == "s3://a"
        assert load(tmp_path, {"ADAPTERS_STORE_URL": "s3://b"}).store_url == "s3://b"
        assert load(tmp_path, {"ADAPTERS_DATABASE_URL": "sqlite:////b.db"}).database_url == "sqlite:////b.db"
        assert load(tmp_path, {"ADAPTERS_STORE_URL": "s3://b"}, store_url="s3://c").store_url == "s3://c"

    def test_home_is_absolute_and_knows_the_tilde(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", "/home/ada")
        monkeypatch.chdir(tmp_path)

        assert load(tmp_path, home="~/a").home == Path("/home/ada/a")
        assert load(tmp_path, home="a").home == tmp_path / "a"


class TestCache:
    def test_it_is_the_homes_unless_named(self, tmp_path):
        assert load(tmp_path, {"ADAPTERS_HOME": "/srv/a"}).pulled == Path("/srv/a/pulled")
        (tmp_path / "adapters.toml").write_text('cache = "shared"\n')
        assert load(tmp_path, {"ADAPTERS_CACHE": "/srv/cache"}).pulled == Path("/srv/cache")
        assert load(tmp_path).pulled == tmp_path / "shared"


class TestActor:
    def test_the_environment_may_name_it(self, tmp_path):
        assert load(tmp_path, {"ADAPTERS_ACTOR": "ci"}).actor == "ci"

    @pytest.mark.parametrize("error", [KeyError("getpwuid(): uid not found: 12345"), OSError("No username set")])
    def test_a_user_without_a_name_is_nobody(self, tmp_path, monkeypatch, error):
        """Python 3.13 raises OSError where 3.11 raises KeyError."""

        def getuser():
            raise error

        monkeypatch.setattr("getpass.getuser", getuser)

        assert load(tmp_path).actor is None


class TestDatabaseUrl:
    @pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
    def test_postgresql_goes_through_psycopg_3(self, tmp_path, scheme):
        assert load(tmp_path, database_url=f"{scheme}://u:p@h/db").database_url == "postgresql+psycopg://u:p@h/db"

    @pytest.mark.parametrize(
        "url", ["mysql://h/db", "postgresql+asyncpg://h/db", "catalog.db", "sqlite+aiosqlite:///x"]
    )
    def test_another_database_is_refused(self, tmp_path, url):
        with pytest.raises(UsageError, match="expected sqlite:/// or postgresql://"):
            load(tmp_path, database_url=url)

    def test_a_refusal_shows_no_password(self, tmp_path):
        with pytest.raises(UsageError) as caught:
            load(tmp_path, database_url="mysql://u:hunter2@h/db")
        assert "hunter2" not in str(caught.value)


class TestProjectFile:
    def test_the_nearest_one_above_counts(self, tmp_path):
        (tmp_path / "a/b").mkdir(parents=True)
        (tmp_path / "adapters.toml").write_text('namespace = "far"')
        (tmp_path / "a/adapters.toml").write_text('namespace = "near"')

        assert load(tmp_path / "a/b").namespace == "near"

    def test_a_relative_home_starts_at_the_file(self, tmp_path):
        (tmp_path / "sub").mkdir()
        (tmp_path / "adapters.toml").write_text('home = "registry"')

        assert load(tmp_path / "sub").home == tmp_path / "registry"

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"home = ", "not readable as TOML"),
            (b"\xff", "not readable as TOML"),
            (b'hom = "x"', "unknown key 'hom'; known: cache, context, contexts"),
            (b"home = 3", "'home' must be a string, found 3"),
            (b"[home]", "'home' must be a string"),
            (b'format = "yaml"', "format 'yaml' is not one of human, json, quiet"),
        ],
    )
    def test_a_file_that_is_wrong_is_refused_and_named(self, tmp_path, content, message):
        (tmp_path / "adapters.toml").write_bytes(content)

        with pytest.raises(UsageError, match=message):
            load(tmp_path)

    def test_an_unknown_format_is_refused(self, tmp_path):
        with pytest.raises(UsageError, match="format 'xml' is not one of human, json, quiet"):
            load(tmp_path, output="xml")


class TestBlasThreads:
    def test_numpy_is_told_to_keep_to_one(self):
        told: dict[str, str] = {}
        one_blas_thread(told)

        assert told == {"OPENBLAS_NUM_THREADS": "1"}

    def test_who_asks_for_more_gets_them(self):
        told = {"OPENBLAS_NUM_THREADS": "8"}
        one_blas_thread(told)

        assert told == {"OPENBLAS_NUM_THREADS": "8"}
