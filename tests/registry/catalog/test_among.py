from __future__ import annotations

from sqlalchemy import select

from registry.catalog.among import among
from registry.models import Version
from tests.factories import publish


def found(database, ids):
    with database.reading() as session:
        return list(session.scalars(select(Version.id).where(among(Version.id)).order_by(Version.id), {"ids": ids}))


def test_exactly_the_rows_of_the_ids_are_found(database):
    for seed in range(4):
        publish(database, seed=seed)

    assert found(database, [4, 2, 2, 99, -1, 2**62]) == [2, 4]
    assert found(database, range(1, 4)) == [1, 2, 3]
    assert found(database, ()) == []


def test_all_ids_are_one_parameter_of_a_bare_term(database):
    """`… = 1` after it would keep SQLite from its index."""
    with database.reading() as session:
        words = str(select(Version.id).where(among(Version.id)).compile(session.get_bind()))

    expected = "IN (SELECT value FROM json_each(?))" if database.is_sqlite else "= ANY (%(ids)s::BIGINT[])"
    assert words.endswith(f"versions.id {expected}")
