"""Migrations make the schema, and it is the one that the models describe."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from registry.catalog import schema
from registry.catalog.database import Database
from registry.models import metadata

ROOT = Path(__file__).parents[2]
VERSIONS = sorted((ROOT / "migrations" / "versions").glob("*.py"))


def config(connection):
    found = Config(ROOT / "alembic.ini")
    found.attributes["connection"] = connection
    return found


@pytest.fixture
def empty(empty_database_url, tmp_path):
    """A database in which nothing is."""
    (tmp_path / "home").mkdir(exist_ok=True)
    database = Database(empty_database_url)
    yield database
    database.dispose()


def test_the_constants_name_the_newest_migration():
    script = ScriptDirectory.from_config(Config(ROOT / "alembic.ini"))

    assert script.get_heads() == [schema.HEAD]
    assert len(VERSIONS) == schema.SCHEMA


def test_the_schema_can_be_made_taken_back_and_made_again(empty):
    with empty.migrating() as connection:
        command.upgrade(config(connection), "head")
        made = set(inspect(connection).get_table_names())
    with empty.migrating() as connection:
        command.downgrade(config(connection), "base")
        assert inspect(connection).get_table_names() == ["alembic_version"]
    with empty.migrating() as connection:
        command.upgrade(config(connection), "head")
        assert set(inspect(connection).get_table_names()) == made
    assert made == {*metadata.tables, "alembic_version"}


def test_a_database_taken_back_to_nothing_counts_as_empty(empty):
    schema.prepare(empty)
    with empty.migrating() as connection:
        command.downgrade(config(connection), "base")

    assert schema.prepare(empty).created


def test_the_models_describe_the_schema(database):
    with database.migrating() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        differences = compare_metadata(context, metadata)

    assert differences == []


def test_checks_and_partial_indexes_are_those_of_the_models(database):
    """What alembic does not compare: the text of check constraints and of index conditions."""
    with database.migrating() as connection:
        migrated = shape(connection)
        metadata.drop_all(connection)
        metadata.create_all(connection)
        described = shape(connection)

    assert migrated == described
    assert len([check for table in migrated.values() for check in table["checks"]]) > 15


def shape(connection):
    inspector = inspect(connection)
    tables = {}
    for table in sorted(set(inspector.get_table_names()) - {"alembic_version"}):
        indexes = inspector.get_indexes(table)
        tables[table] = {
            "checks": sorted((check["name"], check["sqltext"]) for check in inspector.get_check_constraints(table)),
            "indexes": sorted((index["name"], index["unique"], str(where(index))) for index in indexes),
            "keys": sorted(key["name"] for key in inspector.get_foreign_keys(table)),
        }
    return tables


def where(index):
    return [str(value) for key, value in index.get("dialect_options", {}).items() if key.endswith("where")]


@pytest.mark.parametrize("path", VERSIONS, ids=lambda path: path.name)
def test_version_files_import_only_alembic_and_sqlalchemy(path):
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]
    roots = {(node.module if isinstance(node, ast.ImportFrom) else node.names[0].name).split(".")[0] for node in nodes}

    assert roots <= {"__future__", "alembic", "sqlalchemy"}
    assert re.fullmatch(r"20\d{6}_\d{4}_[a-z_]+\.py", path.name)


def test_every_constraint_and_index_has_a_name_by_the_convention(database):
    with database.reading() as session:
        inspector = inspect(session.connection())
        for table in metadata.tables:
            names = [item["name"] for item in (*inspector.get_unique_constraints(table), *inspector.get_indexes(table))]
            names += [
                item["name"] for item in (*inspector.get_foreign_keys(table), *inspector.get_check_constraints(table))
            ]
            assert [name for name in names if not re.match(r"(ix|uq|fk|ck)_", name or "")] == []


def test_alembic_itself_works_from_the_project_folder(tmp_path):
    url = f"url=sqlite:///{tmp_path}/dev.db"
    for arguments in (["upgrade", "head"], ["check"], ["downgrade", "base"]):
        done = subprocess.run(
            [sys.executable, "-m", "alembic", "-x", url, *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    with Database(url.removeprefix("url=")).reading() as session:
        assert session.scalar(text("SELECT count(*) FROM alembic_version")) == 0


def test_the_wheels_copy_of_the_migrations_comes_first(tmp_path, monkeypatch):
    monkeypatch.setattr(schema, "__file__", str(tmp_path / "registry" / "catalog" / "schema.py"))
    assert schema.migrations_folder() == tmp_path / "migrations"
    (tmp_path / "registry" / "_migrations").mkdir(parents=True)
    assert schema.migrations_folder() == tmp_path / "registry" / "_migrations"
