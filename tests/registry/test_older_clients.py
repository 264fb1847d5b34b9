"""P10: what the client of 0.1 says to its database is said again to today's schema, from recordings (older/record.py)."""

from __future__ import annotations

import base64
import json
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import text

from registry.catalog import schema
from registry.catalog.database import Database
from registry.errors import SchemaError
from tests.registries import make_adapter, open_registry

OLDER = Path(__file__).parent / "older"


def recording(database_url):
    kind = "sqlite" if database_url.startswith("sqlite") else "postgresql"
    return json.loads((OLDER / f"0.1-{kind}.json").read_text())


def said_again(database_url, document):
    """Runs the recorded statements through the bare driver; those that met another number of rows than then."""
    connection = connect(database_url)
    cursor, now, different = connection.cursor(), datetime.now(UTC).replace(microsecond=0), []
    for number, parameters, rows, many in document["steps"]:
        statement, values = document["texts"][number], restored(parameters, now)
        if many:
            cursor.executemany(statement, values)
        else:
            cursor.execute(statement, values)
            if rows >= 0 and cursor.rowcount != rows:
                different.append((statement, rows, cursor.rowcount))
    connection.close()
    return different


def connect(database_url):
    if database_url.startswith("sqlite"):
        connection = sqlite3.connect(database_url.removeprefix("sqlite:///"), isolation_level=None)
        connection.execute("PRAGMA foreign_keys = ON")
        return connection
    import psycopg

    return psycopg.connect(database_url.replace("+psycopg", "", 1), autocommit=True)


def restored(value, now):
    if isinstance(value, list):
        return [restored(one, now) for one in value]
    if isinstance(value, dict) and set(value) == {"seconds"}:
        return now + timedelta(seconds=value["seconds"])
    if isinstance(value, dict) and set(value) == {"text"}:
        return f"{now + timedelta(seconds=value['text']):%Y-%m-%d %H:%M:%S}"
    if isinstance(value, dict):
        return {name: restored(one, now) for name, one in value.items()}
    return value


def with_blobs(home, database_url, document):
    """A registry of today on that database, its store as the older client left it."""
    registry = open_registry(home, database_url)
    for digest, content in document["blobs"].items():
        assert registry._handle.store.put_bytes(base64.b64decode(content)) == digest
    return registry


def make_0001(database_url):
    """A database as the client of 0.1 creates it."""
    database = Database(database_url)
    if database.file is not None:
        Path(database.file).parent.mkdir(exist_ok=True)
    config = Config()
    config.set_main_option("script_location", str(schema.migrations_folder()))
    config.set_main_option("path_separator", "os")
    with database.migrating() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    return database


def check_content(registry, tmp_path):
    """What the recorded session left, as its author knows it, and that today's client goes on from there."""
    assert {finding.severity for finding in registry.fsck().findings} <= {"info"}
    assert [info.ref for info in registry.list(all_versions=True)] == ["team/sql@1", "team/sql@2"]
    (marked,) = registry.list(alias="prod", all_versions=True)
    assert (marked.version, marked.tags, marked.metrics) == (1, {"task": "sql", "again": "yes"}, {"loss": 0.5})
    assert registry.push(make_adapter(tmp_path / "a"), "team/sql").version == 1
    assert registry.push(make_adapter(tmp_path / "c", seed=2), "team/sql").version == 3
    registry.gc(grace="0")
    for info in registry.list(all_versions=True):
        assert registry.verify(info.ref).status == "pass"


def test_the_client_of_0_1_works_on_todays_schema(database_url, tmp_path):
    document = recording(database_url)

    assert said_again(database_url, document) == []

    registry = with_blobs(tmp_path / "home", database_url, document)
    check_content(registry, tmp_path)
    registry.close()


def test_the_recording_holds_every_kind_of_change():
    for kind in ("sqlite", "postgresql"):
        document = json.loads((OLDER / f"0.1-{kind}.json").read_text())
        assert document["schema"] == "0001"
        starts = {" ".join(words.split()[:3]).rstrip("(") for words in document["texts"]}
        assert starts >= {"INSERT INTO versions", "INSERT INTO leases", "UPDATE blobs SET", "DELETE FROM blobs"}
        assert starts >= {"INSERT INTO alias_moves", "INSERT INTO lineage", "UPDATE files SET"}


def test_a_catalog_of_0_1_is_upgraded_with_all_that_is_in_it(empty_database_url, tmp_path):
    """SQLite by itself, after a copy; PostgreSQL waits for `adapters migrate`."""
    document = recording(empty_database_url)
    database = make_0001(empty_database_url)
    assert said_again(empty_database_url, document) == []
    if not database.is_sqlite:
        with pytest.raises(SchemaError, match=f"has schema 0001, this client needs {schema.HEAD}") as refusal:
            schema.prepare(database)
        assert (refusal.value.exit_code, refusal.value.hint) == (7, "adapters migrate")

    state = schema.migrate(database) if not database.is_sqlite else schema.prepare(database)

    assert (state.revision, state.upgraded_from, state.created) == (schema.HEAD, "0001", False)
    registry = with_blobs(tmp_path / "home", empty_database_url, document)
    check_content(registry, tmp_path)
    registry.close()
    database.dispose()
    if state.backup is not None:
        with sqlite3.connect(state.backup) as copy:
            columns = {row[1] for row in copy.execute("PRAGMA table_info(blobs)")}
            assert "deleting_until" not in columns
            assert copy.execute("SELECT version_num FROM alembic_version").fetchall() == [("0001",)]
            assert copy.execute("SELECT count(*) FROM versions").fetchall() == [(3,)]
        copy.close()


def test_a_deletion_that_a_client_of_0_1_died_over_is_ended(database_url, tmp_path):
    """It names nobody and no moment."""
    registry = open_registry(tmp_path / "home", database_url)
    source = make_adapter(tmp_path / "a")
    ref = registry.push(source, "team/sql").ref
    registry.remove(ref)
    weights = next(entry.sha256 for entry in registry.show(ref).files if entry.path.endswith(".safetensors"))

    def die_over(session):
        session.execute(text("UPDATE files SET blob_digest = NULL WHERE role = 'file'"))
        session.execute(text("UPDATE versions SET freed_at = CURRENT_TIMESTAMP"))
        session.execute(text("UPDATE blobs SET state = 'deleting' WHERE digest = :digest"), {"digest": weights})

    registry._handle.database.write(die_over)

    assert registry.push(source, "team/sql").version == 1
    assert registry.verify("team/sql@1").status == "pass"
    assert registry.fsck().findings == ()
    registry.close()
