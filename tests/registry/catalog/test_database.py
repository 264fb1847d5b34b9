from __future__ import annotations

import multiprocessing
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time

import pytest
from sqlalchemy import func, insert, select, text

from registry.catalog.database import Database
from registry.catalog.schema import prepare
from registry.errors import BusyError, SchemaError, UnavailableError, UsageError
from registry.models import Adapter, CatalogMeta, Version
from tests.factories import make_settings, publish


def add_adapter(session, name="sql"):
    session.execute(insert(Adapter).values(namespace="team", name=name))


def names(database):
    with database.reading() as session:
        return list(session.scalars(select(Adapter.name).order_by(Adapter.id)))


@pytest.fixture
def sqlite_file(tmp_path, sqlite_template):
    """A catalog of its own, SQLite only."""
    file = tmp_path / "catalog.db"
    shutil.copyfile(sqlite_template, file)
    return file


# One transaction, run again where that is safe


def test_what_work_wrote_is_there_afterwards_and_its_answer_comes_back(database):
    assert database.write(lambda session: add_adapter(session) or "done") == "done"
    assert names(database) == ["sql"]


def test_an_error_in_work_leaves_nothing(database):
    def work(session):
        add_adapter(session)
        raise KeyError("stop")

    with pytest.raises(KeyError):
        database.write(work)
    assert names(database) == []


def test_work_runs_again_when_something_was_in_the_way(database):
    runs = []

    def work(session):
        add_adapter(session, f"sql{len(runs)}")
        runs.append(1)
        if len(runs) < 3:
            raise BusyError("in the way")

    database.write(work)

    assert names(database) == ["sql2"]


def test_what_stays_in_the_way_is_raised_after_a_bounded_number_of_tries(database, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    runs = []

    def work(session):
        runs.append(1)
        raise BusyError("always")

    with pytest.raises(BusyError, match="always"):
        database.write(work)
    assert len(runs) == 12


def test_a_name_taken_at_the_same_moment_is_tried_again(database, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    add = iter(["taken", "free"])
    database.write(lambda session: add_adapter(session, "taken"))

    database.write(lambda session: add_adapter(session, next(add)))

    assert names(database) == ["taken", "free"]


def test_a_broken_foreign_key_is_a_bug_and_says_so(database):
    from sqlalchemy.exc import IntegrityError

    with pytest.raises(IntegrityError):
        database.write(add_dangling_alias)


def add_dangling_alias(session):
    session.execute(
        text("INSERT INTO aliases (adapter_id, name, version_id, moved_at) VALUES (7, 'x', 9, CURRENT_TIMESTAMP)")
    )


def test_readers_see_one_state_from_their_first_statement_on(database):
    publish(database, seed="a")
    with database.reading() as session:
        before = session.scalar(select(func.count(Version.id)))
        if not database.is_sqlite:  # with a rollback journal SQLite's writer waits for the reader instead
            publish(database, seed="b")
        assert session.scalar(select(func.count(Version.id))) == before == 1


def test_a_commit_whose_answer_was_lost_is_not_run_again(postgres_url):
    """The server goes away while it commits: nobody can know, so the error says so and nothing is tried again."""
    database = Database(postgres_url)
    runs = []

    def work(session):
        runs.append(1)
        # A deferred trigger runs inside COMMIT; it ends its own connection there.
        session.execute(
            text(
                "CREATE FUNCTION cut() RETURNS trigger LANGUAGE plpgsql AS "
                "$$BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END$$"
            )
        )
        session.execute(
            text(
                "CREATE CONSTRAINT TRIGGER cut AFTER INSERT ON adapters DEFERRABLE INITIALLY DEFERRED "
                "FOR EACH ROW EXECUTE FUNCTION cut()"
            )
        )
        add_adapter(session)

    with pytest.raises(UnavailableError, match="whether the change was made is unknown"):
        database.write(work)
    assert runs == [1]
    assert names(database) == []
    database.dispose()


def test_a_serialization_failure_is_run_again(postgres_url, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    database = Database(postgres_url)
    database.write(add_adapter)
    runs = []

    def work(session):
        runs.append(1)
        session.execute(text("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"))
        seen = session.scalar(select(Adapter.last_number))
        if len(runs) == 1:
            database.write(lambda other: other.execute(text("UPDATE adapters SET last_number = 5")))
        session.execute(text("UPDATE adapters SET last_number = :n"), {"n": seen + 1})

    database.write(work)

    with database.reading() as session:
        assert (len(runs), session.scalar(select(Adapter.last_number))) == (2, 6)
    database.dispose()


@pytest.mark.parametrize("use", [names, lambda database: database.write(add_adapter)], ids=["read", "write"])
def test_a_connection_that_the_server_closed_while_it_idled_is_replaced(postgres_url, use):
    database, other = Database(postgres_url), Database(postgres_url)
    names(database)  # leaves a connection in the pool
    others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    closed = other.write(lambda session: session.scalar(text(f"SELECT count(pg_terminate_backend(pid)) {others}")))
    assert closed == 1

    use(database)

    for one in (database, other):
        one.dispose()


def test_a_statement_stays_prepared_from_one_read_to_the_next(postgres_url):
    """psycopg prepares at the sixth run and forgets everything in a rollback, which a read therefore avoids."""
    database = Database(postgres_url)
    for _ in range(7):
        names(database)
    with database.reading() as session:
        prepared = session.scalars(text("SELECT statement FROM pg_prepared_statements")).all()
    database.dispose()
    assert any("FROM adapters" in statement for statement in prepared)


def test_rows_changed_in_a_read_are_not_written(database):
    database.write(add_adapter)
    with database.reading() as session:
        session.scalars(select(Adapter)).one().name = "changed"
    assert names(database) == ["sql"]


# SQLite's settings


@pytest.mark.parametrize(
    ("pragma", "expected"),
    [
        ("foreign_keys", 1),
        ("synchronous", 3),
        ("trusted_schema", 0),
        ("cell_size_check", 1),
        ("busy_timeout", 30000),
        ("mmap_size", 0),
    ],
)
def test_every_sqlite_connection_is_set_up(sqlite_file, pragma, expected):
    """synchronous 3 is EXTRA (sqlite.org/pragma.html)."""
    with Database(f"sqlite:///{sqlite_file}").reading() as session:
        assert session.scalar(text(f"PRAGMA {pragma}")) == expected


def test_the_journal_is_a_rollback_journal_where_the_write_ahead_log_can_corrupt(sqlite_file):
    with Database(f"sqlite:///{sqlite_file}").reading() as session:
        expected = "wal" if sqlite3.sqlite_version_info >= (3, 51, 3) else "delete"
        assert session.scalar(text("PRAGMA journal_mode")) == expected


def test_a_writer_takes_the_lock_before_it_reads(sqlite_file):
    """BEGIN IMMEDIATE: with a deferred begin both would read and one would fail."""
    database = Database(f"sqlite:///{sqlite_file}", busy_timeout_s=0.05)
    other = sqlite3.connect(sqlite_file, isolation_level=None)
    seen = []

    def work(session):
        session.scalar(select(Adapter.name))
        try:
            other.execute("PRAGMA busy_timeout = 0")
            other.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            seen.append(str(error))

    database.write(work)
    other.close()

    assert seen == ["database is locked"]


def test_a_locked_file_is_unavailable_and_named(sqlite_file, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    other = sqlite3.connect(sqlite_file, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    database = Database(f"sqlite:///{sqlite_file}", busy_timeout_s=0.01)

    with pytest.raises(UnavailableError, match=f"{sqlite_file} is locked by another process"):
        database.write(add_adapter)
    with pytest.raises(UnavailableError, match="is locked by another process"):
        names(database)
    other.close()


def test_threads_share_one_database(database):
    threads = [threading.Thread(target=publish, args=(database,), kwargs={"seed": n}) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    with database.reading() as session:
        assert sorted(session.scalars(select(Version.number))) == [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_leaves_its_parents_connection_alone(database_url):
    database = Database(database_url)
    database.write(add_adapter)
    backend = "SELECT 1" if database.is_sqlite else "SELECT pg_backend_pid()"

    def own():
        with database.reading() as session:
            return session.scalar(text(backend))

    before = own()
    fork = multiprocessing.get_context("fork")
    queue = fork.SimpleQueue()
    child = fork.Process(target=lambda: queue.put(own()))
    child.start()
    inside = queue.get()
    child.join()

    assert own() == before
    if not database.is_sqlite:
        assert inside != before
    database.dispose()


# What cannot be used says why, in one line that names it


def test_a_file_that_is_no_database_is_refused(tmp_path):
    file = tmp_path / "catalog.db"
    file.write_bytes(b"not a database at all" * 100)

    with pytest.raises(SchemaError, match=f"{file} is not a SQLite database"):
        prepare(Database(f"sqlite:///{file}"))


def test_a_damaged_file_is_unavailable(sqlite_file):
    content = sqlite_file.read_bytes()
    sqlite_file.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))

    with pytest.raises(UnavailableError, match="is damaged"):
        names(Database(f"sqlite:///{sqlite_file}"))


def test_a_folder_that_cannot_be_made_is_unavailable(tmp_path):
    (tmp_path / "file").write_text("x")

    with pytest.raises(UnavailableError, match="file/home: cannot be created: Not a directory"):
        prepare(Database(f"sqlite:///{tmp_path}/file/home/catalog.db"))


def test_a_server_that_is_not_there_is_unavailable_and_the_password_stays_secret():
    database = Database("postgresql+psycopg://ada:s3cret@127.0.0.1:1/catalog?connect_timeout=2&password=s3cret")

    with pytest.raises(UnavailableError) as caught:
        names(database)
    assert "postgresql://127.0.0.1:1/catalog cannot be reached" in str(caught.value)
    assert "s3cret" not in str(caught.value) + repr(caught.value) + str(caught.value.hint)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite:///"])
def test_a_database_in_memory_is_refused(url):
    with pytest.raises(UsageError, match="expected sqlite:///path"):
        Database(url)


def test_an_unreadable_url_is_not_repeated():
    with pytest.raises(UsageError) as caught:
        Database("postgresql+psycopg://ada:s3cret@host:port/catalog")
    assert "s3cret" not in str(caught.value)


def test_a_path_may_hold_any_character(tmp_path):
    settings = make_settings(tmp_path / "what? #1 100% a;b")
    database = Database(settings.resolved_database_url)
    prepare(database)

    assert settings.catalog_file.is_file()
    assert names(database) == []


@pytest.fixture
def mounted(tmp_path):
    """A file system of 1 MiB that a test may fill or make read-only."""
    if os.geteuid() != 0:
        pytest.skip("mounts a file system, which needs root")
    place = tmp_path / "mount"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], check=False, capture_output=True)
    if done.returncode:
        pytest.skip(f"cannot mount: {done.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk_is_named_and_changes_nothing(mounted, sqlite_template):
    file = mounted / "catalog.db"
    shutil.copyfile(sqlite_template, file)
    database = Database(f"sqlite:///{file}")
    database.write(add_adapter)

    with pytest.raises(UnavailableError, match="disk is full"):
        database.write(lambda session: session.add(CatalogMeta(key="big", value="x" * 2_000_000)))
    assert names(database) == ["sql"]
    database.write(lambda session: add_adapter(session, "after"))
    assert names(database) == ["sql", "after"]
    database.dispose()


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_a_database_on_a_read_only_mount_still_reads(mounted, sqlite_template, journal):
    file = mounted / "catalog.db"
    shutil.copyfile(sqlite_template, file)
    with sqlite3.connect(file) as connection:
        connection.execute(f"PRAGMA journal_mode = {journal}")
        connection.execute("INSERT INTO adapters (namespace, name) VALUES ('team', 'sql')")
    connection.close()
    subprocess.run(["mount", "-o", "remount,ro", mounted], check=True)
    database = Database(f"sqlite:///{file}")
    prepare(database)

    assert names(database) == ["sql"]
    with pytest.raises(UnavailableError, match="is read-only"):
        database.write(lambda session: add_adapter(session, "new"))
    database.dispose()


def test_opening_a_catalog_imports_neither_alembic_nor_torch(sqlite_file):
    code = (
        "import sys; from registry.catalog.database import Database; from registry.catalog.schema import prepare; "
        f"prepare(Database('sqlite:///{sqlite_file}')); "
        "print(sorted({'alembic', 'torch', 'psycopg', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"
