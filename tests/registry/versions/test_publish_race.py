"""Real processes that push to one name at the same time, on both databases."""

from __future__ import annotations

import multiprocessing
import sqlite3
from collections import Counter

import pytest
from sqlalchemy import select

from registry.models import Adapter, AliasMove, Version
from tests.factories import publish

PUSHES = 5

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
processes_at_once = pytest.mark.parametrize("processes", [10, pytest.param(32, marks=pytest.mark.slow)])


def together(work, database, processes):
    """Run `work(database, index, results)` in forked processes that start at the same moment."""
    fork = multiprocessing.get_context("fork")
    results, gate = fork.SimpleQueue(), fork.Barrier(processes)
    children = [fork.Process(target=_child, args=(work, database, index, gate, results)) for index in range(processes)]
    for child in children:
        child.start()
    answers = [results.get() for _ in children]
    for child in children:
        child.join()
    failures = [answer for answer in answers if isinstance(answer, str)]
    assert failures == []
    return [item for answer in answers for item in answer]


def _child(work, database, index, gate, results):
    gate.wait()
    try:
        results.put(work(database, index))
    except BaseException as error:  # noqa: BLE001 (the parent must hear of it)
        results.put(f"{type(error).__name__}: {error}")


def push_different(database, index):
    return [publish(database, seed=f"{index}/{push}").number for push in range(PUSHES)]


def push_same(database, index):
    return [(published.number, published.created) for published in [publish(database, seed="same")]]


def push_with_alias(database, index):
    return [publish(database, seed=f"{index}", aliases=("prod",)).number]


@processes_at_once
def test_each_push_of_many_processes_gets_a_number_of_its_own(database, processes):
    publish(database, name="team/other")  # a connection is open before the fork: children must not use it

    numbers = together(push_different, database, processes)

    assert sorted(numbers) == list(range(1, processes * PUSHES + 1))
    with database.reading() as session:
        rows = session.execute(
            select(Version.number, Version.newest).join(Adapter).where(Adapter.name == "sql").order_by(Version.number)
        ).all()
        assert [row.number for row in rows] == list(range(1, processes * PUSHES + 1))
        assert [row.number for row in rows if row.newest] == [processes * PUSHES]


@processes_at_once
def test_the_same_content_pushed_by_many_processes_is_one_version(database, processes):
    answers = together(push_same, database, processes)

    assert Counter(answers) == {(1, True): 1, (1, False): processes - 1}


@processes_at_once
def test_every_alias_move_of_many_processes_starts_where_the_last_one_ended(database, processes):
    numbers = together(push_with_alias, database, processes)

    assert sorted(numbers) == list(range(1, processes + 1))
    with database.reading() as session:
        moves = session.scalars(select(AliasMove).order_by(AliasMove.id)).all()
        assert [move.from_version_id for move in moves] == [None, *(move.to_version_id for move in moves[:-1])]
        assert len(moves) == processes


def test_sqlite_is_built_for_threads():
    # The pool hands connections from thread to thread, which needs the serialized build.
    assert sqlite3.threadsafety == 3
