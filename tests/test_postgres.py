"""A database that a test used before is as new, or is not used again."""

import psycopg
import pytest

from registry.catalog.database import Database
from tests.factories import publish


def ask(url, query):
    with psycopg.connect(url.replace("+psycopg", "", 1), autocommit=True) as connection:
        cursor = connection.execute(query)
        return cursor.fetchall() if cursor.description else []


def test_the_next_test_finds_no_rows_and_the_first_ids(databases):
    with databases.catalog() as url:
        ids = ask(url, "SELECT coalesce(max(id), 0) FROM versions")
        meta = ask(url, "SELECT key, value FROM catalog_meta ORDER BY key")
        database = Database(url)
        publish(database)
        database.dispose()
        ask(url, "UPDATE catalog_meta SET value = 'x'")

    with databases.catalog() as again:
        assert again == url
        assert ask(again, "SELECT coalesce(max(id), 0) FROM versions") == ids == [(0,)]
        assert ask(again, "SELECT key, value FROM catalog_meta ORDER BY key") == meta
        assert ask(again, "SELECT count(*) FROM adapters") == ask(again, "SELECT count(*) FROM blobs") == [(0,)]
        database = Database(again)
        publish(database)
        database.dispose()
        assert ask(again, "SELECT id FROM versions") == [(1,)]


@pytest.mark.parametrize(
    "change",
    [
        "CREATE TABLE more (id INTEGER)",
        "ALTER TABLE versions DROP COLUMN message",
        "ALTER TABLE tags ALTER COLUMN value DROP NOT NULL",
        "CREATE INDEX more ON versions (created_at)",
        "CREATE SCHEMA more",
        "ANALYZE catalog_meta",
    ],
)
def test_one_that_has_another_shape_is_not_used_again(databases, change):
    with databases.catalog() as url:
        ask(url, change)

    with databases.catalog() as again:
        assert again != url
