from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import select, text

from registry.catalog import schema
from registry.catalog.database import Database
from registry.errors import SchemaError
from registry.models import Adapter, CatalogMeta, Tag, Version
from registry.values.refs import parse_ref
from registry.versions.resolve import resolve
from tests.factories import publish

ROOT = Path(__file__).parents[3]
NEXT = """
import sqlalchemy as sa
from alembic import op

revision = "9999"
down_revision = "{head}"
branch_labels = None
depends_on = None


def upgrade():
    with op.batch_alter_table("versions") as batch:
        batch.add_column(sa.Column("region", sa.String(16), nullable=True))
    op.create_table("replicas", sa.Column("id", sa.Integer(), primary_key=True), sa.Column("note", sa.String(16)))
    op.execute("UPDATE catalog_meta SET value = '{ordinal}' WHERE key = 'schema'")
    op.execute("UPDATE catalog_meta SET value = '{oldest}' WHERE key = 'oldest_client'")


def downgrade():
    raise NotImplementedError
"""


def next_migrations(tmp_path, monkeypatch, oldest_client):
    """The migrations with one more that adds a column and a table, as the next minor version might have."""
    folder = tmp_path / "migrations"
    shutil.copytree(ROOT / "migrations", folder, ignore=shutil.ignore_patterns("__pycache__"))
    source = NEXT.format(head=schema.HEAD, ordinal=schema.SCHEMA + 1, oldest=oldest_client)
    (folder / "versions" / "20991231_9999_next.py").write_text(source)
    monkeypatch.setattr(schema, "migrations_folder", lambda: folder)


def pretend_next(monkeypatch):
    """The client of the next version: one migration further."""
    monkeypatch.setattr(schema, "SCHEMA", schema.SCHEMA + 1)
    monkeypatch.setattr(schema, "HEAD", "9999")


@pytest.fixture
def empty(empty_database_url):
    """A database in which nothing is."""
    database = Database(empty_database_url)
    yield database
    database.dispose()


# Creating


def test_an_empty_database_gets_the_whole_schema(empty):
    state = schema.prepare(empty)

    assert (state.created, state.revision, state.ordinal, state.upgraded_from) == (True, "0004", 4, None)
    assert publish(empty).number == 1


def test_a_second_start_changes_nothing(empty):
    schema.prepare(empty)

    assert schema.prepare(empty) == schema.SchemaState(revision="0004", ordinal=4)


def test_the_catalog_says_which_clients_may_use_it(database):
    with database.reading() as session:
        rows = session.execute(select(CatalogMeta.key, CatalogMeta.value)).all()
    assert sorted(map(tuple, rows)) == [("oldest_client", "1"), ("schema", "4")]


def test_the_file_carries_the_application_id(sqlite_template):
    """It is what file(1) and other programs see: the four bytes at offset 68 of the header."""
    assert sqlite_template.read_bytes()[68:72] == b"ADpt"


@pytest.mark.parametrize("racers", [32])
def test_many_first_commands_at_once_all_succeed(empty_database_url, racers):
    """Processes, forked from one that has imported all but alembic; one creates, the others find it done."""
    code = f"""
import os, sys
import psycopg, sqlalchemy.dialects.postgresql.psycopg, sqlalchemy.orm
from registry.catalog.database import Database
from registry.catalog.schema import prepare
children = []
for _ in range({racers}):
    child = os.fork()
    if not child:
        try:
            os._exit(10 if prepare(Database({empty_database_url!r})).created else 20)
        except BaseException as error:
            print(type(error).__name__, error, file=sys.stderr, flush=True)
            os._exit(30)
    children.append(child)
codes = sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)
print(codes.count(10), codes.count(20))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )

    assert (done.stdout, done.stderr) == (f"1 {racers - 1}\n", "")


# What is not ours, or not for us


def test_a_database_of_another_program_is_refused(empty):
    if empty.file is not None:
        Path(empty.file).parent.mkdir()
    with empty.migrating() as connection:
        connection.execute(text("CREATE TABLE customers (id INTEGER)"))

    expected = "belongs to another program" if empty.is_sqlite else "has the table customers"
    with pytest.raises(SchemaError, match=expected):
        schema.prepare(empty)


def test_a_file_with_another_application_id_is_refused(tmp_path):
    """Fossil's id, from SQLite's magic.txt."""
    file = tmp_path / "catalog.db"
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA application_id = 252006673")
    connection.execute("VACUUM")
    connection.close()

    with pytest.raises(SchemaError, match="belongs to another program: application id 252006673"):
        schema.prepare(Database(f"sqlite:///{file}"))


def test_a_revision_nobody_knows_is_refused(database):
    database.write(lambda session: session.execute(text("UPDATE alembic_version SET version_num = 'abc'")))

    with pytest.raises(SchemaError, match="has schema abc, which this client does not know"):
        schema.prepare(database)


def test_a_catalog_that_does_not_say_its_schema_is_refused(database):
    database.write(lambda session: session.execute(text("DELETE FROM catalog_meta")))

    with pytest.raises(SchemaError, match="does not say which schema"):
        schema.prepare(database)


# P10: one minor version apart


def test_this_client_works_on_the_next_additive_schema(database, tmp_path, monkeypatch):
    publish(database, seed="before")
    with monkeypatch.context() as patch:
        next_migrations(tmp_path, patch, oldest_client=schema.SCHEMA)
        pretend_next(patch)
        schema.migrate(database)

    state = schema.prepare(database)

    assert (state.revision, state.ordinal, state.created) == ("9999", 5, False)
    assert publish(database, seed="after", aliases=("prod",), tags={"task": "sql"}).number == 2
    with database.reading() as session:
        assert resolve(session, parse_ref("team/sql@prod")).number == 2
        assert session.scalars(select(Tag.value)).all() == ["sql"]


def test_this_client_refuses_the_next_contracting_schema(database, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        next_migrations(tmp_path, patch, oldest_client=schema.SCHEMA + 1)
        pretend_next(patch)
        schema.migrate(database)

    with pytest.raises(SchemaError, match=r"has schema 9999 \(5\), this client knows up to 0004 \(4\)") as caught:
        schema.prepare(database)
    assert caught.value.hint == "pip install --upgrade adapter-registry"


def test_the_next_client_upgrades_this_schema_and_keeps_the_rows(database, tmp_path, monkeypatch):
    """SQLite upgrades itself after a copy; PostgreSQL waits for `migrate`."""
    publish(database, seed="before", aliases=("prod",))
    next_migrations(tmp_path, monkeypatch, oldest_client=schema.SCHEMA)
    pretend_next(monkeypatch)

    if not database.is_sqlite:
        with pytest.raises(SchemaError, match="has schema 0004, this client needs 9999") as caught:
            schema.prepare(database)
        assert caught.value.hint == "adapters migrate"
    state = schema.prepare(database) if database.is_sqlite else schema.migrate(database)

    assert (state.revision, state.upgraded_from, state.created) == ("9999", "0004", False)
    with database.reading() as session:
        assert resolve(session, parse_ref("team/sql@prod")).number == 1
        assert session.scalar(text("SELECT count(region) FROM versions")) == 0


def test_the_copy_made_before_an_upgrade_is_the_catalog_as_it_was(database, tmp_path, monkeypatch):
    if not database.is_sqlite:
        next_migrations(tmp_path, monkeypatch, oldest_client=1)
        pretend_next(monkeypatch)
        assert schema.migrate(database).backup is None
        return
    publish(database, seed="before")
    with monkeypatch.context() as patch:
        next_migrations(tmp_path, patch, oldest_client=1)
        pretend_next(patch)
        state = schema.prepare(database)

    assert state.backup == Path(f"{database.file}.bak-0004")
    copy = Database(f"sqlite:///{state.backup}")
    assert schema.prepare(copy) == schema.SchemaState(revision="0004", ordinal=4)
    with copy.reading() as session:
        assert session.scalars(select(Version.number)).all() == [1]


def test_a_migration_that_fails_changes_nothing(database, tmp_path, monkeypatch):
    """Its first statements succeed, its last one does not: all or nothing, on both databases."""
    publish(database, seed="before")
    next_migrations(tmp_path, monkeypatch, oldest_client=1)
    version = tmp_path / "migrations/versions/20991231_9999_next.py"
    version.write_text(version.read_text().replace("def downgrade", '    raise KeyError("stop")\n\n\ndef downgrade'))
    with monkeypatch.context() as patch:
        pretend_next(patch)
        with pytest.raises(KeyError):
            schema.migrate(database)

    assert schema.prepare(database).revision == "0004"
    with database.reading() as session:
        assert session.scalars(select(Adapter.name)).all() == ["sql"]


# A kill at any moment of the creation


@pytest.mark.parametrize("call", ["pwrite64", "fdatasync", "unlink"])
def test_a_kill_while_the_schema_is_created_leaves_nothing_or_all(tmp_path, call):
    """Kill -9 at the first, second, … such system call until one run gets through; the next start always works."""
    program = write_creator(tmp_path)
    killed = 0
    for count in (1, 2, 5, 30, 90):
        home = tmp_path / f"home{count}"
        home.mkdir()
        if not killed_at(program, home, call, count):
            break
        killed += 1
        assert usable(home)
    assert killed > 0


def write_creator(tmp_path):
    """A program that forks no processes and imports alembic before it starts, so that few calls are its own."""
    program = tmp_path / "create.py"
    program.write_text(
        "import sys, alembic.command, alembic.config\n"
        "from registry.catalog.database import Database\nfrom registry.catalog.schema import prepare\n"
        "prepare(Database('sqlite:///' + sys.argv[1] + '/catalog.db'))\n"
    )
    return program


def killed_at(program, home, name, count):
    """Whether the fault fired. Only calls on files below `home` count."""
    if shutil.which("strace") is None:
        assert "CI" not in os.environ, "strace is not installed"  # noqa: TID251 (a silent skip there would hide a lost test)
        pytest.skip("strace is not installed")
    command = [str(shutil.which("strace")), "-f", "-qq", "-o", str(home / "trace"), "-P", str(home / "catalog.db")]
    command += ["-P", str(home / "catalog.db-journal"), "-e", f"trace={name}"]
    command += ["-e", f"inject={name}:signal=SIGKILL:when={count}"]
    environment = {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [*command, sys.executable, str(program), str(home)], env=environment, capture_output=True, check=False
    )
    assert done.returncode in (0, -9, 137), done.stderr.decode()
    return done.returncode != 0


def usable(home):
    """The next first command succeeds, and the file is whole."""
    database = Database(f"sqlite:///{home}/catalog.db")
    schema.prepare(database)
    number = publish(database).number
    database.dispose()
    connection = sqlite3.connect(home / "catalog.db")
    check = connection.execute("PRAGMA integrity_check").fetchone()[0]
    connection.close()
    return (number, check) == (1, "ok")


def test_threads_that_start_together_agree(empty):
    with ThreadPoolExecutor(4) as pool:
        states = list(pool.map(lambda _: schema.prepare(empty), range(4)))
    assert [state.revision for state in states] == ["0004"] * 4


def test_a_state_can_be_told_in_json():
    from registry.values.plainjson import to_json

    state = schema.SchemaState(revision="0001", ordinal=1, backup=Path("/h/catalog.db.bak-0000"))
    assert json.loads(json.dumps(to_json(state)))["backup"] == "/h/catalog.db.bak-0000"
