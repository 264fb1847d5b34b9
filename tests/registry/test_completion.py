"""What TAB finds in a catalog, on both databases; and that it creates, changes and says nothing."""

import socket
import sqlite3
import stat
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import text

from engine.format.facts import BaseFacts
from registry.basemodels import bases
from registry.completion import METHODS, aliases, checked, names, references
from registry.completion import bases as base_names
from registry.models import CheckResult
from registry.values.refs import parse_ref
from registry.versions.removal import remove
from tests.factories import digest, make_settings, publish


@pytest.fixture
def settings(database, database_url, tmp_path):
    publish(database, "team/sql", 1, aliases=("prod",))
    publish(database, "team/sql", 2, aliases=("canary",))
    publish(database, "team/sql", 3)
    publish(database, "team/sum-up", 4)
    publish(database, "teal/zz", 5)
    publish(database, "local/mine", 6, aliases=("prod",))
    database.write(lambda session: remove(session, parse_ref("team/sql@3"), actor=None).id)
    url = None if database_url.startswith("sqlite") else database_url
    return make_settings(tmp_path / "home", database_url=url)


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("", ["local/", "teal/", "team/", "mine"]),
        ("te", ["teal/", "team/"]),
        ("TEA", ["teal/", "team/"]),
        ("m", ["mine"]),
        ("team/", ["team/sql", "team/sum-up"]),
        ("team/su", ["team/sum-up"]),
        ("nobody/", []),
        ("a/b/c", []),
    ],
)
def test_namespaces_first_then_names(settings, typed, found):
    """A bare name belongs to the default namespace."""
    assert names(settings, typed) == found


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("team/sql@", ["team/sql@canary", "team/sql@prod", "team/sql@latest", "team/sql@2", "team/sql@1"]),
        ("team/sql@p", ["team/sql@prod"]),
        ("team/sql:p", ["team/sql:prod"]),
        ("team/sql@2", ["team/sql@2"]),
        ("mine@p", ["mine@prod"]),
        ("team/sql@sha256:", [f"team/sql@{digest('manifest 2')}", f"team/sql@{digest('manifest 1')}"]),
        ("nobody@", ["nobody@latest"]),
    ],
)
def test_aliases_latest_numbers_and_digests_follow_a_name(settings, typed, found):
    """Deleted versions are not offered."""
    assert references(settings, typed) == found


def test_undelete_is_offered_what_can_be_undeleted(settings):
    assert references(settings, "team/sql@", deleted=True) == ["team/sql@3"]


def test_aliases_of_one_adapter_or_of_all(settings):
    assert aliases(settings, "mine") == ["prod"]
    assert aliases(settings, None) == ["canary", "prod"]


def test_bases_and_checked_targets(settings, database):
    facts = BaseFacts(layout=digest("layout"), parameters={"w": (2, 2)}, fingerprint=digest("base"))
    database.write(lambda session: bases.add(session, facts, ("org/one", "two"), revision=None, actor=None).names)
    values = {"version_id": 1, "target": "vllm", "ruleset": digest("rules"), "status": "pass", "findings": "[]"}
    database.write(lambda session: session.add(CheckResult(**values)))

    assert base_names(settings) == ["org/one", "two"]
    assert checked(settings) == ["checkin", "vllm"]  # every push is checked in


def test_merge_methods_are_those_of_the_engine():
    methods = pytest.importorskip("engine.merge.methods", exc_type=ImportError)

    assert set(METHODS) == set(methods.METHODS)


def test_text_is_a_value_never_a_statement(settings, database):
    for words in ("x' OR 1=1 --", "team/%", "team/_ql", "team/sql@' OR '1'='1"):
        assert references(settings, words) == []
    assert names(settings, "team/sql") == ["team/sql"]


def test_nothing_is_offered_and_nothing_made_where_there_is_no_registry(tmp_path):
    settings = make_settings(tmp_path / "home")

    assert (names(settings, ""), references(settings, "a@l"), aliases(settings, None)) == ([], ["a@latest"], [])
    assert list(tmp_path.iterdir()) == []


def test_a_home_without_a_catalog_gets_none(tmp_path):
    settings = make_settings(tmp_path / "home")
    settings.home.mkdir()

    assert names(settings, "") == []
    assert list(settings.home.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"no database at all", b"SQLite format 3\0" + bytes(100)])
def test_a_foreign_or_broken_file_offers_nothing_and_stays_as_it_is(tmp_path, content):
    settings = make_settings(tmp_path / "home")
    settings.home.mkdir()
    settings.catalog_file.write_bytes(content)

    assert names(settings, "") == []
    assert settings.catalog_file.read_bytes() == content
    assert [path.name for path in settings.home.iterdir()] == ["catalog.db"]


def test_an_older_catalog_is_read_and_not_upgraded(tmp_path, sqlite_template):
    """Only the tables that are asked for need to be there."""
    settings = make_settings(tmp_path / "home")
    settings.home.mkdir()
    connection = sqlite3.connect(settings.catalog_file)
    connection.execute("CREATE TABLE adapters (id INTEGER, namespace TEXT, name TEXT)")
    connection.execute("INSERT INTO adapters VALUES (1, 'team', 'old')")
    connection.commit()
    connection.close()
    before = settings.catalog_file.read_bytes()

    assert names(settings, "team/") == ["team/old"]
    assert aliases(settings, "team/old") == []
    assert settings.catalog_file.read_bytes() == before


def test_a_catalog_that_may_not_be_written_is_read(tmp_path, sqlite_template):
    settings = make_settings(tmp_path / "home")
    settings.home.mkdir()
    settings.catalog_file.write_bytes(Path(sqlite_template).read_bytes())
    settings.catalog_file.chmod(stat.S_IRUSR)

    assert names(settings, "") == []
    assert [path.name for path in settings.home.iterdir()] == ["catalog.db"]


def test_a_writer_is_waited_for_no_longer_than_a_person_waits(tmp_path, sqlite_template):
    settings = make_settings(tmp_path / "home")
    settings.home.mkdir()
    settings.catalog_file.write_bytes(Path(sqlite_template).read_bytes())
    writer = sqlite3.connect(settings.catalog_file, isolation_level=None)
    writer.execute("BEGIN EXCLUSIVE")

    began = time.monotonic()
    assert names(settings, "") == []
    assert time.monotonic() - began < 5
    writer.close()


def test_a_server_that_is_away_offers_nothing(tmp_path):
    settings = make_settings(tmp_path / "home", database_url="postgresql+psycopg://nobody@127.0.0.1:9/none")

    assert names(settings, "") == []


@pytest.fixture
def mute(tmp_path):
    """Settings of a server that takes every connection and never says a word; the connections that it took."""
    taken = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def take():
            with suppress(OSError):
                while True:
                    taken.append(server.accept()[0])

        threading.Thread(target=take, daemon=True).start()
        port = server.getsockname()[1]
        url = f"postgresql+psycopg://nobody@127.0.0.1:{port}/none"
        yield make_settings(tmp_path / "home", database_url=url), taken
        server.shutdown(socket.SHUT_RDWR)
        for connection in taken:
            connection.close()


@pytest.mark.parametrize("ask", [lambda one: names(one, ""), lambda one: references(one, "a@"), base_names, checked])
def test_a_server_that_never_answers_is_waited_for_one_second(mute, ask):
    """libpq itself waits two seconds at least, for each connection."""
    settings, taken = mute

    began = time.monotonic()
    assert ask(settings) == []
    assert time.monotonic() - began < 1.8
    assert len(taken) == 1


def test_a_table_that_is_locked_is_not_waited_for(settings, database):
    if database.file is not None:
        pytest.skip("a SQLite catalog has its own bound: see the writer above")

    with database.reading() as session:
        session.execute(text("LOCK TABLE adapters IN ACCESS EXCLUSIVE MODE"))
        began = time.monotonic()
        assert names(settings, "") == []
        assert time.monotonic() - began < 1.8
