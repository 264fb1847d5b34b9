from __future__ import annotations

import pytest
from sqlalchemy import select, update

from registry.errors import ConflictError, NotFoundError
from registry.models import File, LineageEdge, Version
from registry.records.draft import Parent
from registry.values.refs import parse_name, parse_ref
from registry.versions.aliases import remove_alias
from registry.versions.removal import remove, undelete
from registry.versions.resolve import resolve
from tests.factories import digest, publish


@pytest.fixture
def three(database):
    """team/sql with versions 1, 2 and 3."""
    for seed in "abc":
        publish(database, seed=seed)
    return database


def drop(database, ref):
    return database.write(lambda session: remove(session, parse_ref(ref), actor="ada"))


def bring_back(database, ref):
    return database.write(lambda session: undelete(session, parse_ref(ref), actor="ada"))


def newest(database):
    with database.reading() as session:
        return session.scalars(select(Version.number).where(Version.newest)).all()


def test_latest_moves_to_the_highest_number_that_is_left(three):
    drop(three, "team/sql@3")
    assert newest(three) == [2]
    drop(three, "team/sql@1")
    assert newest(three) == [2]
    drop(three, "team/sql")
    assert newest(three) == []


def test_undelete_brings_the_version_and_latest_back(three):
    drop(three, "team/sql@3")

    version = bring_back(three, "team/sql@3")

    assert (version.number, version.deleted_at) == (3, None)
    assert newest(three) == [3]


def test_undelete_of_an_older_version_leaves_latest_alone(three):
    drop(three, "team/sql@1")
    bring_back(three, "team/sql@1")

    assert newest(three) == [3]


def test_undelete_of_what_is_not_deleted_changes_nothing(three):
    assert bring_back(three, "team/sql@2").number == 2
    assert newest(three) == [3]


def test_a_removed_version_tells_when(three):
    version = drop(three, "team/sql@3")

    assert version.deleted_at >= version.created_at


def test_a_version_that_an_alias_names_is_not_removed(three):
    publish(three, seed="b", aliases=("prod", "test"))

    with pytest.raises(ConflictError, match=r"team/sql@2: alias prod, test points here") as caught:
        drop(three, "team/sql@2")
    assert caught.value.hint == "adapters alias rm team/sql prod"
    for alias in ("prod", "test"):
        three.write(lambda session, alias=alias: remove_alias(session, parse_name("team/sql"), alias, actor=None))
    assert drop(three, "team/sql@2").number == 2


def test_a_removed_version_is_not_found_and_can_be_brought_back_by_name(three):
    drop(three, "team/sql@2")

    with pytest.raises(NotFoundError, match="version 2 is deleted") as caught:
        drop(three, "team/sql@2")
    assert caught.value.hint == "adapters undelete team/sql@2"


def test_files_and_lineage_outlive_a_removal(three):
    publish(three, seed="d", parents=(Parent(digest("manifest c"), "merged_from", 1.0, 3),))
    drop(three, "team/sql@3")
    drop(three, "team/sql@4")

    with three.reading() as session:
        assert session.scalars(select(LineageEdge.parent_id)).all() == [3]
        assert len(session.scalars(select(File.path).where(File.version_id == 4)).all()) == 4
        assert resolve(session, parse_ref("team/sql@4"), deleted=True).number == 4


def test_undelete_ends_when_gc_freed_the_files(three):
    drop(three, "team/sql@2")
    three.write(
        lambda session: session.execute(update(Version).where(Version.number == 2).values(freed_at=Version.deleted_at))
    )

    with pytest.raises(NotFoundError, match="gc freed its files"):
        bring_back(three, "team/sql@2")


def test_removing_from_an_adapter_that_is_not_there_names_near_ones(three):
    with pytest.raises(NotFoundError, match="nearest: team/sql"):
        drop(three, "team/sqll@1")
