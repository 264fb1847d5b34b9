from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from registry.browse.history import log
from registry.errors import NotFoundError
from registry.models import AliasMove, Version
from registry.values.refs import parse_name, parse_ref
from registry.versions.aliases import remove_alias, rollback_alias, set_alias
from registry.versions.removal import remove
from tests.factories import publish

SQL = parse_name("team/sql")


def entries(database):
    with database.reading() as session:
        return log(session, SQL)


def told(database):
    return [(one.action, one.version, one.alias, one.from_version) for one in entries(database)]


def test_pushes_and_alias_moves_in_the_order_they_happened(database):
    publish(database, seed=1)
    database.write(lambda session: set_alias(session, parse_ref("team/sql@1"), "prod", actor="eve"))
    publish(database, seed=2)
    database.write(lambda session: set_alias(session, parse_ref("team/sql@2"), "prod", actor="eve"))
    database.write(lambda session: rollback_alias(session, SQL, "prod", actor="eve"))
    database.write(lambda session: remove_alias(session, SQL, "prod", actor="eve"))
    order(database)

    assert told(database) == [
        ("push", 1, None, None),
        ("set", 1, "prod", None),
        ("push", 2, None, None),
        ("set", 2, "prod", 1),
        ("rollback", 1, "prod", 2),
        ("rm", None, "prod", 1),
    ]


def order(database):
    """Give the rows above the times of their order: a database's clock may tick once a second."""

    def change(session):
        start = datetime(2026, 1, 1, tzinfo=UTC)
        for version, seconds in ((1, 0), (2, 2)):
            session.get_one(Version, version).created_at = start + timedelta(seconds=seconds)
        for move, seconds in ((1, 1), (2, 3), (3, 4), (4, 5)):
            session.get_one(AliasMove, move).moved_at = start + timedelta(seconds=seconds)

    database.write(change)


def test_an_entry_names_version_actor_and_message(database):
    publish(database, message="first", aliases=("prod",))

    push, move = entries(database)
    assert (push.kind, push.ref, push.actor, push.message) == ("version", "team/sql@1", "ada", "first")
    assert (move.kind, move.ref, move.actor, move.message) == ("alias", "team/sql@1", "ada", None)


def test_at_equal_times_a_push_comes_before_the_move_of_its_alias(database):
    for seed in (1, 2):
        publish(database, seed=seed, aliases=("prod",))

    found = told(database)
    for number in (1, 2):
        assert found.index(("push", number, None, None)) < found.index(
            ("set", number, "prod", 1 if number > 1 else None)
        )


def test_a_clock_that_went_back_changes_no_order(database):
    """Version 2 and the second move carry earlier times than what came before them."""
    for seed in (1, 2):
        publish(database, seed=seed, aliases=("prod",))

    def turn_back(session):
        for model, column in ((Version, "created_at"), (AliasMove, "moved_at")):
            setattr(session.get_one(model, 2), column, datetime(2000, 1, 1, tzinfo=UTC))

    database.write(turn_back)

    assert [one for one in told(database) if one[0] == "push"] == [("push", 1, None, None), ("push", 2, None, None)]
    assert [one for one in told(database) if one[0] == "set"] == [("set", 1, "prod", None), ("set", 2, "prod", 1)]
    assert told(database).index(("push", 2, None, None)) < told(database).index(("set", 2, "prod", 1))


def test_a_move_comes_after_the_push_it_speaks_of_even_where_its_clock_was_behind(database):
    publish(database, aliases=("prod",))

    def turn_back(session):
        session.get_one(AliasMove, 1).moved_at = datetime(2000, 1, 1, tzinfo=UTC)

    database.write(turn_back)

    assert told(database) == [("push", 1, None, None), ("set", 1, "prod", None)]


def test_a_deleted_version_ends_with_its_removal(database):
    publish(database, seed=1, aliases=("prod",))
    publish(database, seed=2)
    database.write(lambda session: remove_alias(session, SQL, "prod", actor=None))
    database.write(lambda session: remove(session, parse_ref("team/sql@1"), actor=None))

    assert told(database)[-1] == ("rm", 1, None, None)
    assert entries(database)[-1].kind == "version"


def test_another_adapter_of_the_same_name_is_not_in_it(database):
    publish(database, "other/sql")
    with pytest.raises(NotFoundError, match="team/sql"):
        entries(database)
