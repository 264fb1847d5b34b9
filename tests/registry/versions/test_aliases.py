from __future__ import annotations

import pytest
from sqlalchemy import select

from registry.errors import ConflictError, NotFoundError
from registry.models import AliasMove, AuditEntry
from registry.results import AliasInfo
from registry.values.refs import parse_name, parse_ref
from registry.versions.aliases import list_aliases, remove_alias, rollback_alias, set_alias
from registry.versions.removal import remove
from registry.versions.resolve import resolve
from tests.factories import publish

SQL = parse_name("team/sql")


@pytest.fixture
def three(database):
    """team/sql with versions 1, 2 and 3."""
    for seed in "abc":
        publish(database, seed=seed)
    return database


def point(database, number, expect=None, alias="prod"):
    ref = parse_ref(f"team/sql@{number}")
    wanted = parse_ref(expect) if expect not in (None, "none") else expect
    return database.write(lambda session: set_alias(session, ref, alias, actor="ada", expect=wanted))


def rollback(database):
    return database.write(lambda session: rollback_alias(session, SQL, "prod", actor="ada"))


def take_away(database):
    return database.write(lambda session: remove_alias(session, SQL, "prod", actor="ada"))


def target(database, alias="prod"):
    with database.reading() as session:
        return resolve(session, parse_ref(f"team/sql@{alias}")).number


def moves(database):
    with database.reading() as session:
        query = select(AliasMove).order_by(AliasMove.id)
        return [(move.action, move.from_version_id, move.to_version_id, move.actor) for move in session.scalars(query)]


def test_an_alias_moves_and_says_where_it_was(three):
    assert point(three, 1) == AliasInfo("prod", "team/sql@1", 1, None)
    assert point(three, 3) == AliasInfo("prod", "team/sql@3", 3, 1)
    assert target(three) == 3
    assert moves(three) == [("set", None, 1, "ada"), ("set", 1, 3, "ada")]


def test_a_move_to_where_it_is_leaves_no_history(three):
    point(three, 1)
    point(three, 1)

    assert len(moves(three)) == 1


def test_compare_and_set_moves_only_from_what_was_expected(three):
    point(three, 1, expect="none")
    point(three, 2, expect="team/sql@1")

    with pytest.raises(ConflictError, match=r"alias prod of team/sql: expected version 1, found version 2"):
        point(three, 3, expect="team/sql@1")
    with pytest.raises(ConflictError, match="expected nothing, found version 2"):
        point(three, 3, expect="none")
    with pytest.raises(ConflictError, match="expected version 1, found nothing"):
        point(three, 3, expect="team/sql@1", alias="new")
    assert target(three) == 2


def test_what_is_expected_may_be_another_adapters_version(three):
    publish(three, "team/other", "x")
    point(three, 1)

    with pytest.raises(ConflictError, match="expected team/other@1, found version 1"):
        point(three, 2, expect="team/other@1")


def test_rollback_goes_back_step_by_step_and_then_ends(three):
    for number in (1, 2, 3):
        point(three, number)

    assert [rollback(three).version, rollback(three).version] == [2, 1]
    with pytest.raises(ConflictError, match="its history ends here"):
        rollback(three)
    assert target(three) == 1


def test_rollback_after_a_new_move_undoes_that_move(three):
    """1, 2, back to 1, 3, back: 1 again, since 2 was taken back before."""
    point(three, 1)
    point(three, 2)
    rollback(three)
    point(three, 3)

    assert rollback(three).version == 1
    assert [move[0] for move in moves(three)] == ["set", "set", "rollback", "set", "rollback"]


def test_rollback_brings_a_removed_alias_back(three):
    point(three, 2)
    assert take_away(three) == AliasInfo("prod", None, None, 2)

    assert rollback(three).version == 2
    assert target(three) == 2


def test_rollback_to_a_deleted_version_is_refused(three):
    point(three, 1)
    point(three, 2)
    three.write(lambda session: remove(session, parse_ref("team/sql@1"), actor=None))

    with pytest.raises(ConflictError, match="version 1 before it is deleted") as caught:
        rollback(three)
    assert caught.value.hint == "adapters undelete team/sql@1"


def test_an_alias_cannot_point_at_a_deleted_version(three):
    three.write(lambda session: remove(session, parse_ref("team/sql@2"), actor=None))

    with pytest.raises(NotFoundError, match="version 2 is deleted"):
        point(three, 2)


def test_removing_an_alias_that_is_not_there_names_those_that_are(three):
    with pytest.raises(NotFoundError, match="there is none; it has none"):
        take_away(three)
    point(three, 1, alias="test")
    with pytest.raises(NotFoundError, match="aliases: test"):
        take_away(three)
    with pytest.raises(NotFoundError, match="alias prod of team/sql"):
        rollback(three)


def test_aliases_are_listed_by_name_with_the_version_before(three):
    point(three, 1)
    point(three, 3)
    point(three, 2, alias="canary")

    with three.reading() as session:
        listed = list_aliases(session, SQL)
    assert listed == (AliasInfo("canary", "team/sql@2", 2, None), AliasInfo("prod", "team/sql@3", 3, 1))


def test_every_move_is_in_the_audit_log(three):
    point(three, 1)
    take_away(three)

    with three.reading() as session:
        query = select(AuditEntry.action, AuditEntry.detail).where(AuditEntry.action != "push").order_by(AuditEntry.id)
        entries = [tuple(row) for row in session.execute(query)]
    assert entries == [("alias set", '{"alias": "prod", "to": 1}'), ("alias rm", '{"alias": "prod", "to": null}')]
