"""A record's parents, found among the rows that are here."""

from __future__ import annotations

from sqlalchemy import select

from registry.models import Version
from registry.rebuilding.redraft import parents_here
from registry.records.record import ParentRecord
from tests.factories import digest, publish


def found(database, parent):
    """The digest of the version that a parent is taken for, None for none."""
    with database.reading() as session:
        (one,) = parents_here(session, (parent,))
        assert one.digest == parent.digest
        row = None if one.version_id is None else session.get_one(Version, one.version_id)
        return None if row is None else (row.number, row.digest)


def digests(database):
    with database.reading() as session:
        return list(session.scalars(select(Version.digest).order_by(Version.id)))


def test_a_parent_is_the_version_of_its_number_and_content(database):
    for name in ("team/other", "team/sql"):
        publish(database, name, 1)
    own, same = digests(database)

    assert own == same  # the same content under two names
    with database.reading() as session:
        (one,) = parents_here(session, (ParentRecord(own, "finetuned_from", None, "team/sql@1"),))
        assert one.version_id == session.scalars(select(Version.id).order_by(Version.id.desc())).first()


def test_another_content_under_the_parents_number_is_not_the_parent(database):
    """Here team/sql@1 is something else than where the record was written; the content has number 2."""
    for seed in (1, 2):
        publish(database, "team/sql", seed)
    _, second = digests(database)

    assert found(database, ParentRecord(second, "finetuned_from", None, "team/sql@1")) == (2, second)


def test_a_content_that_is_not_here_is_a_parent_without_a_row(database):
    publish(database, "team/sql", 1)

    assert found(database, ParentRecord(digest("elsewhere"), "finetuned_from", None, "team/sql@1")) is None
