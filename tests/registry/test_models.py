"""What the database itself refuses, whoever asks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.exc import IntegrityError

from registry.errors import BusyError
from registry.models import Adapter, Blob, Lease, metadata
from tests.factories import digest, publish


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO blobs (digest, size, state) VALUES ('md5:1', 1, 'live')",
        "UPDATE blobs SET state = 'gone'",
        "UPDATE blobs SET size = -1",
        "DELETE FROM blobs",
        "UPDATE files SET blob_digest = 'sha256:none'",
        "UPDATE versions SET number = 0",
        "UPDATE versions SET deleted_at = CURRENT_TIMESTAMP",
        "UPDATE versions SET digest = 'sha256:short'",
        "UPDATE adapters SET last_number = -1",
        "DELETE FROM versions",
        "DELETE FROM adapters",
        "UPDATE check_results SET status = 'fine'",
        "UPDATE alias_moves SET action = 'lost'",
        "INSERT INTO lineage (child_id, parent_digest, relation) VALUES (1, 'sha256:short', 'merged_from')",
        "UPDATE aliases SET version_id = 99",
    ],
)
def test_a_row_that_breaks_a_promise_is_refused(database, statement):
    publish(database, aliases=("prod",))

    with pytest.raises(IntegrityError):
        database.write(lambda session: session.execute(text(statement)))


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO adapters (namespace, name) VALUES ('team', 'sql')",
        "UPDATE versions SET number = 1",
        "UPDATE versions SET newest = (number > 0)",
    ],
)
def test_names_numbers_and_the_newest_flag_are_unique(database, statement, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    publish(database, seed="a")
    publish(database, seed="b")

    with pytest.raises(BusyError, match="took the same number or name"):
        database.write(lambda session: session.execute(text(statement)))


def test_moments_come_back_in_utc_whatever_zone_they_had(database):
    moment = datetime(2026, 11, 22, 12, 30, 15, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    database.write(lambda session: session.execute(insert(Lease).values(id="a", expires_at=moment)))

    with database.reading() as session:
        stored = session.scalar(select(Lease.expires_at))
    assert stored == datetime(2026, 11, 22, 7, 0, 15, tzinfo=UTC)
    assert stored.tzinfo is UTC


def test_a_moment_compares_with_itself_and_with_the_databases_clock(database):
    moment = datetime(2026, 11, 22, 12, 30, 15, tzinfo=UTC)
    database.write(lambda session: session.execute(insert(Lease).values(id="a", expires_at=moment, created_at=moment)))

    with database.reading() as session:
        assert session.scalar(select(Lease.id).where(Lease.expires_at <= moment, Lease.expires_at >= moment)) == "a"
        assert session.scalar(select(Lease.id).where(Lease.expires_at == Lease.created_at)) == "a"


def test_the_databases_clock_is_ours_within_a_minute(database):
    database.write(lambda session: session.add(Blob(digest=digest(1), size=1)))

    with database.reading() as session:
        stored = session.scalar(select(Blob.created_at))
    assert abs(stored - datetime.now(UTC)) < timedelta(minutes=1)


def test_names_sort_by_bytes_on_both_databases(database):
    for name in ("b", "a-b", "ab", "a.b", "a_b"):
        database.write(lambda session, name=name: session.add(Adapter(namespace="team", name=name)))

    with database.reading() as session:
        # '-' is 0x2d, '.' 0x2e, '_' 0x5f, 'b' 0x62
        assert session.scalars(select(Adapter.name).order_by(Adapter.name)).all() == ["a-b", "a.b", "a_b", "ab", "b"]


def test_every_table_belongs_to_the_one_metadata():
    assert sorted(metadata.tables) == [
        "adapters", "alias_moves", "aliases", "artifacts", "audit_log", "base_names", "base_twins", "bases", "blobs",
        "catalog_meta", "check_results", "documents", "files", "lease_blobs", "leases", "lineage", "metrics", "recipes",
        "tags", "versions",
    ]  # fmt: skip
