from __future__ import annotations

import pytest
from sqlalchemy import select, text

from registry.catalog.database import Database
from registry.catalog.newest import IS_NEWEST
from registry.errors import ConflictError, NotFoundError
from registry.models import Version
from registry.values.refs import parse_ref
from registry.versions.removal import remove
from registry.versions.resolve import resolve
from tests.factories import digest, publish


def number(database, text, **options):
    with database.reading() as session:
        return resolve(session, parse_ref(text), **options).number


def test_a_number_names_that_version(database):
    publish(database, seed="a")
    publish(database, seed="b")

    assert number(database, "team/sql@1") == 1
    assert number(database, "team/sql@v2") == 2


def test_latest_and_a_bare_name_mean_the_highest_number(database):
    publish(database, seed="a")
    publish(database, seed="b")

    assert number(database, "team/sql") == 2
    assert number(database, "team/sql@latest") == 2


def test_an_alias_names_its_version(database):
    publish(database, seed="a", aliases=("prod",))
    publish(database, seed="b")

    assert number(database, "team/sql@prod") == 1


def test_twelve_hex_digits_of_a_digest_are_enough(database):
    publish(database, seed="a")
    publish(database, seed="b")

    assert number(database, "team/sql@" + digest("manifest a")[:19]) == 1


def test_an_unknown_adapter_names_the_nearest(database):
    publish(database, name="team/sql-lora")

    with pytest.raises(NotFoundError, match=r"team/sql-lra: no adapter of that name; nearest: team/sql-lora"):
        number(database, "team/sql-lra")


def test_an_unknown_number_names_the_newest(database):
    publish(database, seed="a")

    with pytest.raises(NotFoundError, match=r"team/sql@7: no version 7; the newest version is team/sql@1"):
        number(database, "team/sql@7")


def test_an_unknown_alias_names_those_there_are(database):
    publish(database, seed="a", aliases=("prod", "canary"))

    with pytest.raises(NotFoundError, match="no alias test; aliases: canary, prod; the newest version is team/sql@1"):
        number(database, "team/sql@test")


def test_a_deleted_version_is_found_only_where_asked_for(database):
    publish(database, seed="a")
    publish(database, seed="b")
    database.write(lambda session: remove(session, parse_ref("team/sql@2"), actor=None))

    assert number(database, "team/sql") == 1
    for ref in ("team/sql@2", "team/sql@" + digest("manifest b")):
        assert number(database, ref, deleted=True) == 2
        with pytest.raises(NotFoundError, match="version 2 is deleted"):
            number(database, ref)


def test_an_adapter_without_a_version_left_says_so(database):
    publish(database, seed="a")
    database.write(lambda session: remove(session, parse_ref("team/sql@1"), actor=None))

    with pytest.raises(NotFoundError, match="every version of team/sql is deleted"):
        number(database, "team/sql")


def test_a_digest_prefix_of_two_versions_is_a_conflict_that_names_them(database):
    for last in "ab":
        publish(database, seed=last, manifest="sha256:" + "0123456789ab" * 5 + "000" + last)

    with pytest.raises(ConflictError, match="team/sql@1, team/sql@2"):
        number(database, "team/sql@sha256:0123456789ab")
    assert number(database, "team/sql@sha256:" + "0123456789ab" * 5 + "000b") == 2


def test_a_digest_of_another_adapter_is_not_found_here(database):
    publish(database, seed="a")
    publish(database, name="team/other", seed="b")

    with pytest.raises(NotFoundError, match="no version with digest"):
        number(database, "team/sql@" + digest("manifest b"))


def test_a_pin_holds_or_is_a_conflict(database):
    publish(database, seed="a", aliases=("prod",))
    publish(database, seed="b")

    assert number(database, f"team/sql@prod@{digest('manifest a')}") == 1
    assert number(database, f"team/sql@latest@{digest('manifest b')[:20]}") == 2
    with pytest.raises(ConflictError, match="not the pinned one"):
        number(database, f"team/sql@prod@{digest('manifest b')}")


def test_latest_is_one_search_of_the_partial_index(sqlite_template):
    database = Database(f"sqlite:///{sqlite_template}")
    with database.reading() as session:
        query = select(Version.id).where(Version.adapter_id == 1, IS_NEWEST)
        compiled = query.compile(session.get_bind(), compile_kwargs={"literal_binds": True})
        plan = session.execute(text(f"EXPLAIN QUERY PLAN {compiled}")).all()
    assert [row[3] for row in plan] == ["SEARCH versions USING INDEX uq_versions_newest (adapter_id=?)"]
